"""How well a VAE rebuilds the test pictures, before training and after: numbers by name.

Every picture is encoded to its posterior's mean and decoded, alone or with the same seven others
whoever computes it, so the numbers do not depend on the number of processes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.encoders.vae import VAE, posterior_mean
from xmdpt_cli.images import Picture
from xmdpt_cli.metrics import pairwise
from xmdpt_cli.metrics.lpips_metric import SMALLEST, Lpips
from xmdpt_cli.metrics.protocols import LOWEST, Protocol, get_protocol
from xmdpt_cli.metrics.report import Report, Row, Table, Value, table
from xmdpt_cli.pose.head import head_map
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.training.distributed import SINGLE_PROCESS, Distributed
from xmdpt_cli.vae_training.examples import DatasetExamples

FACE = "psnr_face"
_CHUNK = 8  # pictures decoded together

Images = list[dict[str, Any]]  # of each test picture: its name and its values


def rebuild(vae: VAE, examples: DatasetExamples, indices: list[int]) -> NDArray[np.uint8]:
    """These pictures, encoded (or read as stored moments) and decoded: uint8 (n, H, W, 3)."""
    moments = examples.moments(indices, np.zeros(len(indices), np.bool_))
    if moments is None:
        moments = vae.encode_moments(np.stack([examples.pictures[i] for i in indices]))
    return vae.decode(posterior_mean(moments.to(vae.device), vae.scale))


def protocol_for(resolution: int) -> Protocol:
    """As ``xmdpt evaluate`` chooses: the published 256x176, smaller pictures as they are."""
    return get_protocol("cfld" if resolution >= LOWEST else "native")


def measure(
    vae: VAE,
    examples: DatasetExamples,
    count: int,
    lpips: Lpips | None,
    *,
    stage: str,
    dist: Distributed = SINGLE_PROCESS,
    progress: Progress = silent,
) -> Images:
    """The first ``count`` pictures' measures, by name; all processes get all of them."""
    protocol = protocol_for(examples.dataset.resolution)
    mine: dict[int, dict[str, Value]] = {}
    for number, start in enumerate(range(0, count, _CHUNK)):
        if number % dist.world_size == dist.rank:
            indices = list(range(start, min(start + _CHUNK, count)))
            for index, made in zip(indices, rebuild(vae, examples, indices), strict=True):
                mine[index] = _values(examples, index, made, protocol, lpips)
        progress(stage, min(start + _CHUNK, count), count)
    found = {k: v for part in dist.all_gather(mine) for k, v in part.items()}
    names = ["/".join(view) for view in examples.pictures.views]
    return [{"name": names[index], "values": found[index]} for index in range(count)]


def _values(
    examples: DatasetExamples, index: int, made: Picture, protocol: Protocol, lpips: Lpips | None
) -> dict[str, Value]:
    original = examples.pictures[index]
    truth, rebuilt = protocol.truth(original), protocol.prediction(made)
    values = pairwise.measure(rebuilt, truth)
    if lpips is not None:
        fits = min(truth.shape[:2]) >= SMALLEST
        values[lpips.metric] = lpips(rebuilt, truth) if fits else None
    keypoints = examples.dataset.keypoints(*examples.pictures.views[index])
    values[FACE] = psnr_face(made, original, head_map(keypoints, *original.shape[:2]))
    return values


def psnr_face(made: Picture, truth: Picture, head: NDArray[np.float32]) -> Value:
    """PSNR in dB of prepared pictures where the head is, (H, W) in [0, 1]; None without a head."""
    total = 3.0 * float(head.sum(dtype=np.float64))
    if total == 0:
        return None
    error = (made.astype(np.float64) - truth.astype(np.float64)) / 255.0
    mse = float((error**2 * head[..., None]).sum()) / total
    return math.inf if mse == 0 else -10.0 * math.log10(mse)


def make_report(
    resolution: int, before: Images, after: Images, lpips: Lpips | None, notes: list[str]
) -> Report:
    """Both rows side by side; ``before`` and ``after`` are of the same pictures."""
    rows = {"before": Row(), "after": Row()}
    for row, images in zip(rows.values(), (before, after), strict=True):
        for image in images:
            row.add(image["values"])
    protocol = protocol_for(resolution)
    if protocol.published:
        notes = [
            *notes,
            f"the truths are the prepared {resolution} px pictures brought to 256x176, not the "
            "high-resolution photographs published numbers start from",
        ]
    return Report(
        protocol=protocol.name,
        rows={name: row.means() for name, row in rows.items()},
        counts={name: row.count for name, row in rows.items()},
        undefined={name: row.undefined for name, row in rows.items() if row.undefined},
        infinite={name: row.infinite for name, row in rows.items() if row.infinite},
        sizes=["176x256" if protocol.published else f"{resolution}x{resolution}"],
        weights={} if lpips is None else {lpips.metric: lpips.weights},
        toy=[lpips.metric] if lpips is not None and lpips.toy else [],
        notes=notes,
        images=[
            {"name": a["name"], "rows": {"before": a["values"], "after": b["values"]}}
            for a, b in zip(before, after, strict=True)
        ],
    )


def cells(report: Report) -> Table:
    """The report as text, with the face's own line."""
    made = table(report)
    values = [row.get(FACE) for row in report.rows.values()]
    shown = ["-" if v is None else f"{v:.2f}" for v in values]
    return Table(made.header, [*made.rows[:-1], [f"{FACE} ↑", *shown], made.rows[-1]])
