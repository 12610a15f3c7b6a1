"""Reports of ``xmdpt bench`` with given numbers."""

from __future__ import annotations

from xmdpt_cli.bench.machine import Machine
from xmdpt_cli.bench.report import Report, Row
from xmdpt_cli.bench.timing import Spread

PEAK = 100e9  # FLOP a second


def sampling_report(rows: dict[str, tuple[float, float]], spread: float = 0.02) -> Report:
    """``{"M / implementation": (GFLOP, MFU)}`` on a machine of 100 GFLOP/s, in three rounds."""
    around = (1 - spread, 1, 1 + spread)
    return Report(
        "sampling",
        "seconds for 8 images of 256 px",
        {"batch": 2, "pixels": 256, "precision": "fp32", "rounds": 3},
        Machine({"processor": "P", "cores": 2, "threads": 2, "device": "cpu"}, {"torch": "2"}),
        [
            Row.of(
                name, [8 * gflop * 1e9 / mfu / PEAK * a for a in around], 8, flop=gflop * 1e9,
                peak=[PEAK] * 3, steps=50, steps_timed=1, forwards=100, parameters=2_000_000,
                parameters_inference=1_000_000, peak_memory=2**30,
            )
            for name, (gflop, mfu) in rows.items()
        ],
        {"peak fp32": Spread((PEAK,)), "copy": Spread((1e10,))},
    )  # fmt: skip
