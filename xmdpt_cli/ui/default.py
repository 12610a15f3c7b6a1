"""The model that the page opens where none is named, and what is checked before it is loaded."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from xmdpt_cli.errors import ConfigError

DEMO = "xmdpt-demo"  # the folder of ``xmdpt demo``
ENCODERS = ("vae", "dino_source", "dino_pose")
RUNS = ("run-tokens", "run-vector")


def default_model(folder: Path) -> Path | None:
    """The run of the demo in ``folder``, of several the newest; None: there is none."""
    runs = [folder / DEMO / run for run in RUNS]
    whole = [run for run in runs if (run / "model" / "xmdpt.json").is_file()]
    return max(whole, key=lambda run: (run / "model" / "xmdpt.json").stat().st_mtime, default=None)


def check_encoders(folder: Path, named: Container[str] = ()) -> None:
    """ConfigError unless ``folder`` holds the encoders, except those that are ``named`` apart."""
    wanted = [f"{name}/" for name in ENCODERS if name not in named]
    missing = [name for name in wanted if not (folder / name).is_dir()]
    if missing:
        what = f"has no {', '.join(missing)}" if folder.is_dir() else "is not a folder"
        raise ConfigError(
            f"--encoders: {folder} {what}",
            f"name a folder with {', '.join(wanted)}, such as DATA/encoders of a prepared dataset; "
            "or leave the option out",
        )
