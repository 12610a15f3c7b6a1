"""The model that the page opens where none is named."""

from __future__ import annotations

from pathlib import Path

DEMO = "xmdpt-demo"  # the folder of ``xmdpt demo``
RUNS = ("run-tokens", "run-vector")


def default_model(folder: Path) -> Path | None:
    """The run of the demo in ``folder``, of several the newest; None: there is none."""
    runs = [folder / DEMO / run for run in RUNS]
    whole = [run for run in runs if (run / "model" / "xmdpt.json").is_file()]
    return max(whole, key=lambda run: (run / "model" / "xmdpt.json").stat().st_mtime, default=None)
