"""Metrics of reconstructions of the test images: before and after training, or of two decoders.

Each image is encoded to the mean of its posterior and decoded, always in the same chunk of images,
so that the numbers do not depend on the number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.encoders.decoder import Decoder
from xmdpt_cli.encoders.vae import VAE, posterior_mean
from xmdpt_cli.images import ImageArray
from xmdpt_cli.metrics.base import PairMetric
from xmdpt_cli.metrics.collection import protocol_metrics
from xmdpt_cli.metrics.evaluation import Evaluation, Value
from xmdpt_cli.metrics.lpips_metric import LpipsNetwork
from xmdpt_cli.metrics.pixels import to_tensor
from xmdpt_cli.metrics.protocols import LOWEST, Protocol, get_protocol
from xmdpt_cli.pose.head import head_map
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.training.distributed import SINGLE_PROCESS, Distributed
from xmdpt_cli.vae_training.examples import DatasetExamples

FACE = "psnr_face"
_CHUNK = 8  # images decoded together

Images = list[dict[str, Any]]  # name and values of each test image
#: indices of n test images -> uint8 (n, H, W, 3)
Rebuild = Callable[[list[int]], NDArray[np.uint8]]


def rebuild(
    vae: VAE, decoder: Decoder, examples: DatasetExamples, indices: list[int]
) -> NDArray[np.uint8]:
    """Reconstructions of these images by ``decoder``, from the moments that are stored or that
    ``vae`` encodes: uint8 (n, H, W, 3)."""
    moments = examples.moments(indices, np.zeros(len(indices), np.bool_))
    if moments is None:
        moments = vae.encode_moments(np.stack([examples.images[i] for i in indices]))
    return decoder.decode(posterior_mean(moments.to(vae.device), vae.scale))


def protocol_for(resolution: int) -> Protocol:
    """The default protocol of ``xmdpt evaluate``: 256x176, or native for smaller images."""
    return get_protocol("cfld" if resolution >= LOWEST else "native")


def measure(
    made_of: Rebuild,
    examples: DatasetExamples,
    count: int,
    lpips: LpipsNetwork | None,
    *,
    stage: str,
    target_of: Rebuild | None = None,
    dist: Distributed = SINGLE_PROCESS,
    progress: Progress = silent,
) -> Images:
    """Names and metrics of the first ``count`` images, on all processes.

    ``target_of``: the images that those of ``made_of`` are compared with; None: the photographs.
    """
    protocol = protocol_for(examples.dataset.resolution)
    metrics = protocol_metrics(protocol, lpips=lpips, sync_on_compute=False)
    places: list[int] = []
    faces: list[Value] = []
    for number, start in enumerate(range(0, count, _CHUNK)):
        if number % dist.world_size == dist.rank:
            indices = list(range(start, min(start + _CHUNK, count)))
            made = made_of(indices)
            targets = target_of(indices) if target_of else [examples.images[i] for i in indices]
            metrics.update(to_tensor(made), to_tensor(targets))
            places += indices
            faces += [_face(examples, *of) for of in zip(indices, made, targets, strict=True)]
        progress(stage, min(start + _CHUNK, count), count)
    values: dict[int, dict[str, Value]] = {place: {} for place in places}
    for metric in metrics.metrics:
        if isinstance(metric, PairMetric):
            for place, value in zip(places, metric.per_image().tolist(), strict=True):
                values[place][metric.name] = None if math.isnan(value) else value
    for place, face in zip(places, faces, strict=True):
        values[place][FACE] = face
    found = {k: v for part in dist.all_gather(values) for k, v in part.items()}
    names = ["/".join(view) for view in examples.images.views]
    return [{"name": names[index], "values": found[index]} for index in range(count)]


def _face(examples: DatasetExamples, index: int, made: ImageArray, target: ImageArray) -> Value:
    keypoints = examples.dataset.keypoints(*examples.images.views[index])
    return psnr_face(made, target, head_map(keypoints, *target.shape[:2]))


def psnr_face(made: ImageArray, ground_truth: ImageArray, head: NDArray[np.float32]) -> Value:
    """PSNR in dB, weighted by the head map (H, W) in [0, 1]; None if that is zero."""
    total = 3.0 * float(head.sum(dtype=np.float64))
    if total == 0:
        return None
    error = (made.astype(np.float64) - ground_truth.astype(np.float64)) / 255.0
    mse = float((error**2 * head[..., None]).sum()) / total
    return math.inf if mse == 0 else -10.0 * math.log10(mse)


def make_report(
    resolution: int, rows: dict[str, Images], lpips: LpipsNetwork | None, notes: list[str]
) -> Evaluation:
    """The report with these rows, which are metrics of the same images."""
    protocol = protocol_for(resolution)
    if protocol.published:
        notes = [
            *notes,
            f"the ground truths are the prepared {resolution} px images resized to 256x176, not "
            "the high-resolution photographs published numbers start from",
        ]
    report = Evaluation(
        protocol=protocol.name,
        rows={},
        counts={row: len(images) for row, images in rows.items()},
        sizes=["176x256" if protocol.published else f"{resolution}x{resolution}"],
        weights={} if lpips is None else {lpips.metric: lpips.weights},
        toy=[lpips.metric] if lpips is not None and lpips.toy else [],
        notes=notes,
        images=[
            {
                "name": same[0]["name"],
                "rows": {row: one["values"] for row, one in zip(rows, same, strict=True)},
            }
            for same in zip(*rows.values(), strict=True)
        ],
    )
    for row, images in rows.items():
        for metric in images[0]["values"]:
            values = [image["values"][metric] for image in images]
            report.add(row, metric, np.array(values, dtype=np.float64))
    return report
