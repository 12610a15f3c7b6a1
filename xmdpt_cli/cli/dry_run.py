"""The output of ``--dry-run`` of a training: time, memory, disk, and chosen settings."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmdpt_cli.cli.console import Talk, duration
from xmdpt_cli.config import differing
from xmdpt_cli.files import human_bytes
from xmdpt_cli.utils.counts import counted

if TYPE_CHECKING:
    import torch

    from xmdpt_cli.training.estimate import Estimate


def estimate_lines(estimate: Estimate, kept: str) -> list[str]:
    """Lines for time, memory and disk. ``kept``: description of the files on the disk."""
    parts = ", ".join(f"{name} {human_bytes(count)}" for name, count in estimate.memory.items())
    return [
        _time(estimate),
        f"memory: about {human_bytes(estimate.memory_bytes)} (estimated: {parts})",
        f"disk: about {human_bytes(estimate.disk)} ({kept})",
    ]


def _time(estimate: Estimate) -> str:
    if estimate.step_seconds is None or estimate.seconds is None:
        return "time: not known until the batch size is"
    each = f"{estimate.step_seconds:.3g} s a step"
    left = counted(estimate.steps, "step") if estimate.steps else "all steps are done"
    return f"time: about {duration(estimate.seconds)} ({left}, {each}, {estimate.how})"


def setting_lines(config: Any, chosen: Any = None) -> list[str]:
    """Lines for the settings that are not the defaults. ``config``: as given by the user;
    ``chosen``: with the values that the program chose, which are shown if they differ."""
    lines = []
    for name, (value, default) in differing(config).items():
        lines.append(f"  {name} = {_word(config, name, value)}  (default {json.dumps(default)})")
    for name in differing(chosen or config):
        value = getattr(chosen or config, name)
        if value and value != getattr(config, name):  # 0: not used by this training
            lines.append(f"  {name} = {_word(config, name, value)}  (chosen automatically)")
    if not lines:
        return ["settings: all are the defaults"]
    return ["settings that differ from the defaults:", *lines]


def _word(config: Any, name: str, value: Any) -> str:
    """A value as in TOML, or the word for it (``auto``)."""
    field = next(field for field in dataclasses.fields(config) if field.name == name)
    words = {meant: word for word, meant in field.metadata.get("words", {}).items()}
    return json.dumps(words.get(value, value))


def warn_of_room(talk: Talk, estimate: Estimate, out: Path, device: torch.device) -> None:
    """Warn if there is not enough free memory or disk."""
    from xmdpt_cli.utils.devices import free_disk, free_memory

    memory, disk = free_memory(device), free_disk(out)
    if memory is not None and estimate.memory_bytes > memory:
        talk.warn(f"{device} has {human_bytes(memory)} of memory free, less than is needed")
        talk.hint("a smaller --batch-size, or --accumulate: less memory, same result")
    if estimate.disk > disk:
        talk.warn(f"{out} has room for {human_bytes(disk)} only")
