"""Metrics of a VAE's reconstructions of the test images, before and after training.

Each image is encoded to the mean of its posterior and decoded, always in the same chunk of images,
so that the numbers do not depend on the number of processes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def rebuild(vae: VAE, examples: DatasetExamples, indices: list[int]) -> NDArray[np.uint8]:
    """Reconstructions of these images from their (stored) moments: uint8 (n, H, W, 3)."""
    moments = examples.moments(indices, np.zeros(len(indices), np.bool_))
    if moments is None:
        moments = vae.encode_moments(np.stack([examples.images[i] for i in indices]))
    return vae.decode(posterior_mean(moments.to(vae.device), vae.scale))


def protocol_for(resolution: int) -> Protocol:
    """The default protocol of ``xmdpt evaluate``: 256x176, or native for smaller images."""
    return get_protocol("cfld" if resolution >= LOWEST else "native")


def measure(
    vae: VAE,
    examples: DatasetExamples,
    count: int,
    lpips: LpipsNetwork | None,
    *,
    stage: str,
    dist: Distributed = SINGLE_PROCESS,
    progress: Progress = silent,
) -> Images:
    """Names and metrics of the first ``count`` images, on all processes."""
    protocol = protocol_for(examples.dataset.resolution)
    metrics = protocol_metrics(protocol, lpips=lpips, sync_on_compute=False)
    places: list[int] = []
    faces: list[Value] = []
    for number, start in enumerate(range(0, count, _CHUNK)):
        if number % dist.world_size == dist.rank:
            indices = list(range(start, min(start + _CHUNK, count)))
            made = rebuild(vae, examples, indices)
            originals = [examples.images[i] for i in indices]
            metrics.update(to_tensor(made), to_tensor(originals))
            places += indices
            faces += [_face(examples, *of) for of in zip(indices, made, originals, strict=True)]
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


def _face(examples: DatasetExamples, index: int, made: ImageArray, original: ImageArray) -> Value:
    keypoints = examples.dataset.keypoints(*examples.images.views[index])
    return psnr_face(made, original, head_map(keypoints, *original.shape[:2]))


def psnr_face(made: ImageArray, ground_truth: ImageArray, head: NDArray[np.float32]) -> Value:
    """PSNR in dB, weighted by the head map (H, W) in [0, 1]; None if that is zero."""
    total = 3.0 * float(head.sum(dtype=np.float64))
    if total == 0:
        return None
    error = (made.astype(np.float64) - ground_truth.astype(np.float64)) / 255.0
    mse = float((error**2 * head[..., None]).sum()) / total
    return math.inf if mse == 0 else -10.0 * math.log10(mse)


def make_report(
    resolution: int, before: Images, after: Images, lpips: LpipsNetwork | None, notes: list[str]
) -> Evaluation:
    """The report with the rows "before" and "after", which are metrics of the same images."""
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
        counts={"before": len(before), "after": len(after)},
        sizes=["176x256" if protocol.published else f"{resolution}x{resolution}"],
        weights={} if lpips is None else {lpips.metric: lpips.weights},
        toy=[lpips.metric] if lpips is not None and lpips.toy else [],
        notes=notes,
        images=[
            {"name": a["name"], "rows": {"before": a["values"], "after": b["values"]}}
            for a, b in zip(before, after, strict=True)
        ],
    )
    for row, images in (("before", before), ("after", after)):
        for metric in images[0]["values"]:
            values = [image["values"][metric] for image in images]
            report.add(row, metric, np.array(values, dtype=np.float64))
    return report
