"""Values reported by the X-MDPT paper (ICML 2024, Table 1), to compare with measured ones.

The paper does not state which of the two SSIMs of this field it uses; probably ``ssim_256``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xmdpt_cli.metrics.evaluation import Evaluation

_TABLE_1: dict[int, list[dict[str, Any]]] = {
    256: [
        {"name": "VAE reconstruction", "FID": "8.0126", "SSIM": "0.9168", "LPIPS": "0.0142"},
        {"name": "ground truth", "FID": "7.8610"},
    ],
    512: [
        {"name": "VAE reconstruction", "FID": "8.1815", "SSIM": "0.9122", "LPIPS": "0.0266"},
        {"name": "ground truth", "FID": "7.9150"},
    ],
}


def references(reports: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """The calibration rows of these reports' size: {"name": ..., "FID": ...} as printed."""
    large = any(size == "352x512" for report in reports for size in report.sizes)
    return [dict(row) for row in _TABLE_1[512 if large else 256]]
