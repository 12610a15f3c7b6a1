"""``--track wandb|trackio``: the same metrics and images in an experiment tracker.

Both are optional: TensorBoard events and metrics.jsonl are always written. A run keeps its
tracked run's id in ``track.json``, so that resuming continues the same curves.
"""

from __future__ import annotations

import importlib
import json
import os
import secrets
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.files import write_text
from xmdpt_cli.images import ImageArray
from xmdpt_cli.utils import records

TRACKERS = ("none", "wandb", "trackio")
PROJECT = "xmdpt"
IDS = "track.json"


class Tracker(Protocol):
    """An experiment tracker, in addition to the run's own files."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def log_image(self, step: int, name: str, image: ImageArray) -> None: ...

    def close(self) -> None: ...


def check_tracker(kind: str) -> None:
    """ConfigError if there is no such tracker, or if it is not installed; call before any work."""
    if kind not in TRACKERS:
        raise ConfigError(f"track is one of {', '.join(TRACKERS)}, not {kind!r}")
    if kind != "none":
        _module(kind)


def open_tracker(kind: str, out: Path, config: Mapping[str, Any]) -> Tracker | None:
    """Create, or resume, the tracked run of the run folder ``out``; None for "none".

    Login, project and offline mode are configured by the tracker's own environment variables
    (WANDB_MODE, WANDB_PROJECT, TRACKIO_PROJECT, ...).
    """
    check_tracker(kind)
    if kind == "none":
        return None
    ids: dict[str, str] = records.read_if_there(dict[str, str], out / IDS) or {}
    if kind not in ids:
        ids[kind] = f"{out.resolve().name}-{secrets.token_hex(4)}"
        write_text(out / IDS, json.dumps(ids, indent=1) + "\n")
    return _WandbTracker(kind, ids[kind], out, config)


class _WandbTracker:
    """wandb, or trackio, which has the same interface.

    Steps that are repeated after a kill: wandb ignores them, trackio shows them twice.
    """

    def __init__(self, kind: str, run: str, out: Path, config: Mapping[str, Any]) -> None:
        self.module = _module(kind)
        project = os.environ.get(f"{kind.upper()}_PROJECT", PROJECT)
        options: dict[str, Any] = {"project": project, "name": run, "config": dict(config)}
        if kind == "wandb":
            options |= {"id": run, "dir": str(out)}
        try:
            with redirect_stdout(sys.stderr):  # stdout is the command's
                self.run = self.module.init(**options, resume="allow")
        except Exception as err:  # not logged in, no connection, a refused project: their types
            raise XmdptError(
                f"{kind} did not start: {str(err).splitlines()[0] if str(err) else type(err)}",
                "set it up, or train without --track",
            ) from err

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def log_image(self, step: int, name: str, image: ImageArray) -> None:
        self.run.log({name: self.module.Image(image)}, step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self.module.finish()  # not the run's: trackio would finish it again, and print, at exit


def _module(kind: str) -> Any:
    try:
        return importlib.import_module(kind)
    except ImportError:
        raise ConfigError(f"{kind} is not installed", f"pip install {kind}") from None
