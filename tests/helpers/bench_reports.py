"""Reports of ``xmdpt bench`` with given numbers."""

from __future__ import annotations

from typing import Any

from xmdpt_cli.bench.timing import Spread

PEAK = 100e9  # FLOP a second


def drawing(rows: dict[str, tuple[float, float]], spread: float = 0.02) -> dict[str, Any]:
    """``{"model / impl": (GFLOP, MFU)}`` on a machine of 100 GFLOP/s, in three rounds each."""
    made = []
    for key, (gflop, mfu) in rows.items():
        seconds = gflop / mfu / (PEAK / 1e9)
        around = (1 - spread, 1, 1 + spread)
        model, _, impl = key.partition(" / ")
        made.append({
            "key": key, "model": model, "implementation": impl, "gain": "", "base": "",
            "precision": "fp32",
            "steps": 50, "steps_timed": 1, "forwards": 100, "parameters_training": 2_000_000,
            "parameters_inference": 1_000_000, "peak_memory": 2**30, "gflop": gflop,
            "seconds": Spread(tuple(8 * seconds * a for a in around)).plain(),
            "images_per_second": 1 / seconds,
            "mfu": Spread(tuple(mfu / a for a in around)).plain(),
            "over_pidm": None, "over_pidm_compiled": None, "over_published": None,
            "over_base": None,
            "denoising_over_published": None,
        })  # fmt: skip
    identity = {"processor": "P", "cores": 2, "threads": 2, "device": "cpu"}
    return {
        "format": "xmdpt-bench",
        "version": 1,
        "kind": "drawing",
        "machine": {"identity": identity, "state": {"torch": "2"}},
        "settings": {"batch": 2, "pixels": 256, "precision": "fp32", "compiled": True,
                     "tiny": False, "rounds": 3, "measured_steps": 1, "images": 8},
        "peak": {"peak fp32": Spread((PEAK,)).plain(), "copy": Spread((1e10,)).plain()},
        "rows": made,
    }  # fmt: skip
