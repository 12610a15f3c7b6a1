"""What the functions of ``xmdpt_cli.metrics`` give for one pair, without the metric objects."""

from __future__ import annotations

import math

from xmdpt_cli.metrics.pixel_metrics import l1, mae, psnr
from xmdpt_cli.metrics.pixels import Pixels
from xmdpt_cli.metrics.ssim import ssim, ssim_256, ssim_w51


def pair_values(
    generated: Pixels, ground_truth: Pixels, *, sigma: float = 1.5, wang: bool = False
) -> dict[str, float | None]:
    """All metrics that need no network, by name; None where one is undefined."""
    side = min(ground_truth.shape[:2])
    values = {"psnr": psnr(generated, ground_truth), "l1": l1(generated, ground_truth)}
    values["mae"] = mae(generated, ground_truth)
    if wang:
        values["ssim"] = ssim(generated, ground_truth) if side >= 11 else math.nan
    else:
        values["ssim_w51"] = ssim_w51(generated, ground_truth) if side >= 51 else math.nan
        window = {1.5: 11, 1.2: 9}[sigma]
        fits = side >= window
        values["ssim_256"] = ssim_256(generated, ground_truth, sigma) if fits else math.nan
    return {name: None if math.isnan(value) else value for name, value in values.items()}
