"""Every metric on two ranks: ``main`` writes a file of values a rank."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from xmdpt_cli.metrics import FID, KID, L1, LPIPS, MAE, PSNR, SSIM, SSIM256, SSIMW51, ImageMetric
from xmdpt_cli.metrics.features import toy_features
from xmdpt_cli.metrics.lpips_metric import LpipsNetwork

COUNT = 11


def images(seed: int) -> Tensor:
    """uint8 (11, 3, 64, 64): smooth, so that SSIM means something."""
    coarse = np.random.default_rng(seed).integers(0, 256, (COUNT, 6, 6, 3), dtype=np.uint8)
    smooth = [cv2.resize(one, (64, 64), interpolation=cv2.INTER_CUBIC) for one in coarse]
    return torch.from_numpy(np.stack(smooth)).permute(0, 3, 1, 2)


def metrics() -> list[ImageMetric]:
    """One of each."""
    toy = toy_features()
    plain = [SSIMW51(), SSIM256(), SSIM(), PSNR(), L1(), MAE()]
    return [*plain, LPIPS(LpipsNetwork("toy")), FID(toy), KID(toy)]


def main(folder: Path) -> None:
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    found: dict[str, dict[str, float]] = {"split": {}, "all on rank 0": {}, "own again": {}}
    for name, parts in (
        ("split", [slice(0, 7), slice(7, None)]),
        ("all on rank 0", [slice(0, None), slice(0, 0)]),
    ):
        for metric in metrics():
            part = parts[rank]
            if len(images(0)[part]):
                metric.update(images(0)[part], images(1)[part])
            found[name][metric.name] = float(metric.compute())
            if name == "split":
                found["own again"][metric.name] = len(metric.rows())  # after compute
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()
