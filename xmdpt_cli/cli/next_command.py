"""The commands that messages and hints suggest."""

from __future__ import annotations

import shlex
from pathlib import Path

from xmdpt_cli.utils.redact import masked


def quote(path: str | Path) -> str:
    """A path or URL quoted for a shell; passwords are masked."""
    return shlex.quote(masked(str(path)))


METRICS = "--fid --ssim --lpips"


def train_command(toy: bool) -> str:
    """The command that trains on a new dataset; on a toy dataset with a preset of minutes."""
    return f"xmdpt train {'--preset fast/tokens-64' if toy else '--size B'}"


def resume_command(run: Path, command: str) -> str:
    """The command that resumes a run with its own settings. ``command``: "train" or "distill"."""
    return f"xmdpt {command} --config {quote(run / 'config.toml')} --out {quote(run)}"


def sample_command(run: Path) -> str:
    """The command that samples from a run; a run of the workspace need not be named."""
    return "xmdpt sample" if run.parent == Path("runs") else f"xmdpt sample --model {quote(run)}"


def evaluate_command(data: str, samples: Path, split: str, *, default: bool) -> str:
    """The command that evaluates samples. ``default``: of the model, the dataset and the folder
    that ``xmdpt evaluate`` takes by itself; others are named."""
    if default and samples.parent == Path("samples") and split == "test":
        return f"xmdpt evaluate {METRICS}"
    option = "" if split == "test" else f" --split {split}"
    return f"xmdpt evaluate --data {quote(data)} --generated {quote(samples)}{option} {METRICS}"
