"""Batched OpenPose, around controlnet-aux's code for one image.

controlnet-aux calls its network in the middle of a function that scales an image before it and
assembles people after it. That function runs twice for every image, each time on a copy of the
detector with a stand-in for the network: first ``_Recorder``, which stops at the network's input;
then, once the real network has processed all images of one shape in batches, ``_Replay``, which
returns that image's part of the output.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from xmdpt_cli.images import ImageArray

Outputs = tuple[torch.Tensor, torch.Tensor]  # of one image: (1, 38, h, w), (1, 19, h, w)
Network = Callable[[torch.Tensor], Outputs]

AT_ONCE = 32  # images a call of the network: its first layers hold about 12 MB for each


class _Stopped(Exception):  # noqa: N818 - not an error
    """Carries the network's input out of the library's function."""

    def __init__(self, data: torch.Tensor) -> None:
        super().__init__()
        self.data = data


class _StandIn:
    """The interface of a network that the library's function uses: parameters, and a call."""

    def parameters(self) -> Iterator[torch.Tensor]:
        yield torch.empty(0)  # on the CPU: images are moved to the device in batches


class _Recorder(_StandIn):
    def __call__(self, data: torch.Tensor) -> Outputs:
        raise _Stopped(data)


class _Replay(_StandIn):
    """Returns the stored output for the recorded input; other inputs go to the real network."""

    def __init__(self, recorded: torch.Tensor, outputs: Outputs, network: Any) -> None:
        self.recorded, self.outputs, self.network = recorded, outputs, network

    def __call__(self, data: torch.Tensor) -> Outputs:
        if torch.equal(data, self.recorded):
            return self.outputs
        first, second = self.network(data.to(_device(self.network)))
        return first, second


def detect_batch(
    detector: Any, images: Sequence[ImageArray], *, threads: int = 1
) -> list[list[Any]]:
    """``detector.detect_poses`` of every image, uint8 (H, W, 3) of any sizes, in order.

    ``threads`` run the steps before and after the network. ``detector`` is not changed, so several
    threads may call this.
    """
    network = detector.body_estimation.model
    with ThreadPoolExecutor(max(1, threads)) as pool:
        inputs = list(pool.map(lambda image: _network_input(detector, image), images))
        outputs = _run(network, inputs)

        def finish(i: int) -> list[Any]:
            replay = _Replay(inputs[i], outputs[i], network)
            people: list[Any] = _with_network(detector, replay).detect_poses(images[i])
            return people

        return list(pool.map(finish, range(len(images))))


def _with_network(detector: Any, network: Any) -> Any:
    """A copy of the detector that calls ``network``; weights are shared, not copied."""
    other = copy.copy(detector)
    other.body_estimation = copy.copy(detector.body_estimation)
    other.body_estimation.model = network
    return other


def _network_input(detector: Any, image: ImageArray) -> torch.Tensor:
    """The network's input for this image: float32 (1, 3, h, w) on the CPU."""
    try:
        _with_network(detector, _Recorder()).detect_poses(image)
    except _Stopped as stopped:
        return stopped.data
    raise AssertionError("controlnet-aux did not call its network")


def _run(network: Any, inputs: Sequence[torch.Tensor]) -> list[Outputs]:
    """The network's outputs on the CPU for each input, in order."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, data in enumerate(inputs):
        groups[tuple(data.shape)].append(i)
    outputs: dict[int, Outputs] = {}
    for members in groups.values():
        for start in range(0, len(members), AT_ONCE):
            part = members[start : start + AT_ONCE]
            batch = torch.cat([inputs[i] for i in part])
            with torch.no_grad():
                first, second = network(batch.to(_device(network)))
            pairs = zip(first.float().cpu().split(1), second.float().cpu().split(1), strict=True)
            outputs.update(zip(part, pairs, strict=True))
    return [outputs[i] for i in range(len(inputs))]


def _device(network: Any) -> torch.device:
    return next(iter(network.parameters())).device
