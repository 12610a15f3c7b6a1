"""Many images through OpenPose's network at once, around controlnet-aux's one-image code.

controlnet-aux calls its network in the middle of a function that scales an image before and
assembles people after. That function is run twice for every image, each time on a copy of the
detector with a stand-in for the network: one that takes what it is given and stops there, and,
once the real network has seen all images of one shape together, one that answers with that
image's part of its output.
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
    """Carries what the network would have been given out of the library's function."""

    def __init__(self, data: torch.Tensor) -> None:
        super().__init__()
        self.data = data


class _StandIn:
    """What the library's function asks of a network: where its parameters are, and a call."""

    def parameters(self) -> Iterator[torch.Tensor]:
        yield torch.empty(0)  # on the CPU: the images travel together, later


class _Recorder(_StandIn):
    def __call__(self, data: torch.Tensor) -> Outputs:
        raise _Stopped(data)


class _Replay(_StandIn):
    """Answers the recorded question; anything else goes to the real network."""

    def __init__(self, asked: torch.Tensor, answer: Outputs, network: Any) -> None:
        self.asked, self.answer, self.network = asked, answer, network

    def __call__(self, data: torch.Tensor) -> Outputs:
        if torch.equal(data, self.asked):
            return self.answer
        first, second = self.network(data.to(_device(self.network)))
        return first, second


def detect_batch(
    detector: Any, images: Sequence[ImageArray], *, threads: int = 1
) -> list[list[Any]]:
    """``detector.detect_poses`` of every image, uint8 (H, W, 3) of any sizes, in order.

    ``threads`` work before and after the network. ``detector`` is not changed, so calls from
    several threads do not disturb each other.
    """
    network = detector.body_estimation.model
    with ThreadPoolExecutor(max(1, threads)) as pool:
        asked = list(pool.map(lambda image: _question(detector, image), images))
        answers = _ask(network, asked)

        def finish(i: int) -> list[Any]:
            replay = _Replay(asked[i], answers[i], network)
            people: list[Any] = _with_network(detector, replay).detect_poses(images[i])
            return people

        return list(pool.map(finish, range(len(images))))


def _with_network(detector: Any, network: Any) -> Any:
    """A copy of the detector that asks ``network``; weights are shared, not copied."""
    other = copy.copy(detector)
    other.body_estimation = copy.copy(detector.body_estimation)
    other.body_estimation.model = network
    return other


def _question(detector: Any, image: ImageArray) -> torch.Tensor:
    """What the network is given for this image: float32 (1, 3, h, w) on the CPU."""
    try:
        _with_network(detector, _Recorder()).detect_poses(image)
    except _Stopped as stopped:
        return stopped.data
    raise AssertionError("controlnet-aux did not ask its network")


def _ask(network: Any, asked: Sequence[torch.Tensor]) -> list[Outputs]:
    """The network's outputs on the CPU for every question, in order."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, data in enumerate(asked):
        groups[tuple(data.shape)].append(i)
    answers: dict[int, Outputs] = {}
    for members in groups.values():
        for start in range(0, len(members), AT_ONCE):
            part = members[start : start + AT_ONCE]
            batch = torch.cat([asked[i] for i in part])
            with torch.no_grad():
                first, second = network(batch.to(_device(network)))
            pairs = zip(first.float().cpu().split(1), second.float().cpu().split(1), strict=True)
            answers.update(zip(part, pairs, strict=True))
    return [answers[i] for i in range(len(asked))]


def _device(network: Any) -> torch.device:
    return next(iter(network.parameters())).device
