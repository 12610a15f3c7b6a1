"""Checkpoints: written atomically, verified before an older one is removed, resumed to the bit.

``checkpoints/step_0001000/`` holds model.safetensors, ema.safetensors (if the run has an EMA),
optimizer.safetensors, and state.json with the sha256 of each. Everything is written and read back
in a hidden folder, which is then renamed; ``checkpoints/latest`` names the newest. Tensors are
unsharded and named by their parameters, so any number of ranks can resume. Random numbers need not
be saved: each step's follow from the seed and its number.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from typing_extensions import NotRequired, TypedDict

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import atomic_write, remove_folder, sha256_of, write_text, writing
from xmdpt_cli.training.distributed import SINGLE_PROCESS, Distributed
from xmdpt_cli.training.state_dict import (
    Optimizers,
    OptimizerState,
    check_model_state,
    load_model_state,
    load_optimizer_state,
    model_state,
    optimizer_state,
)
from xmdpt_cli.utils import records
from xmdpt_cli.utils.safe_names import CHECKPOINT

FILES = MODEL, EMA, OPTIMIZER = "model.safetensors", "ema.safetensors", "optimizer.safetensors"

Name = Literal["model.safetensors", "ema.safetensors", "optimizer.safetensors"]
Count = Annotated[int, Ge(0)]


class Sums(TypedDict):
    bytes: Count
    sha256: str


class State(TypedDict):
    """state.json: the step, the run's own records, and the optimizers' state besides tensors
    (``numbers`` and ``counters``, see ``state_dict.OptimizerState``)."""

    step: Count
    files: dict[Name, Sums]
    numbers: dict[str, float]
    counters: list[dict[str, float]]
    seed: NotRequired[int]
    skipped: NotRequired[Count]
    first_loss: NotRequired[float]
    last_losses: NotRequired[list[float]]


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    ema: nn.Module | None,
    optimizers: Optimizers,
    state: Mapping[str, Any],
    keep: int,
    keep_every: int = 0,
    dist: Distributed = SINGLE_PROCESS,
) -> Path:
    """Write checkpoint ``step`` below ``folder``; a collective, rank 0 writes.

    After it has been read back and compared, older checkpoints are removed, except the ``keep``
    newest and those whose step ``keep_every`` divides (0: none). ``state``: other values that
    resuming needs, see ``State``. Raises XmdptError on every rank, with the older ones untouched,
    if the disk is full or returns other bytes.
    """
    final, sums = folder / f"step_{step:07d}", dict[str, Sums]()
    part = final.with_name(f".{final.name}.part")
    with ExitStack() as opened:  # empty except on rank 0
        dist.run_on_main(lambda: opened.enter_context(_new_checkpoint(final, part)))

        def write(name: str, tensors: Mapping[str, Tensor]) -> None:
            sums[name] = dist.run_on_main(partial(_write, final, part / name, tensors))

        # one file at a time: rank 0 needs memory for the largest only
        write(MODEL, model_state(model))
        if ema is not None:
            write(EMA, model_state(ema))
        found = optimizer_state(model, optimizers)
        write(OPTIMIZER, found.tensors)
        record = {
            "step": step, **state, "numbers": found.numbers, "counters": found.counters,
            "files": sums,
        }  # fmt: skip

        def finish() -> None:
            write_text(part / "state.json", json.dumps(record, indent=2))
            opened.close()  # renames the folder
            _remove_older(final, keep, keep_every)

        dist.run_on_main(finish)
    return final


def steps_in(folder: Path) -> list[Path]:
    """The folders of checkpoints, complete or not, ordered by step."""
    named = (p for p in folder.glob("step_*") if CHECKPOINT.fullmatch(p.name))
    return sorted(path for path in named if not path.is_symlink())


def step_of(checkpoint: Path) -> int:
    """``checkpoints/step_0001000`` -> 1000."""
    return int(checkpoint.name.removeprefix("step_"))


def latest(folder: Path) -> Path | None:
    """The newest checkpoint, or None. Does not read ``latest``, which a kill may leave outdated."""
    found = _complete(folder)
    return found[-1] if found else None


def load(
    path: Path,
    model: nn.Module,
    ema: nn.Module | None,
    optimizers: Optimizers,
    dist: Distributed = SINGLE_PROCESS,
    check: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    """Load model, EMA and optimizers from a checkpoint; returns its state.json. A collective.

    Raises XmdptError if a file is not what was written (then nothing is changed), or if the
    checkpoint belongs to another model; ``check(model.safetensors)`` may raise a better error for
    that.
    """
    models: dict[str, nn.Module] = {MODEL: model}
    if ema is not None:
        models[EMA] = ema
    state: dict[str, Any] = dist.run_on_main(partial(_checked, path, models, check))
    found = OptimizerState(numbers=state["numbers"], counters=state["counters"])
    # before the weights: torch creates an optimizer's state by a step of zero length
    load_optimizer_state(model, optimizers, path / OPTIMIZER, found, dist)
    for name, module in models.items():
        load_model_state(module, path / name, dist)
    return state


def verify(path: Path) -> str:
    """A message about the first damaged file of a checkpoint; empty if all are what was written."""
    try:
        state: dict[str, Any] = records.read(State, path / "state.json")
        missing = {MODEL, OPTIMIZER} - state["files"].keys()
        if missing:
            return f"state.json lists no {', '.join(sorted(missing))}"
        for name, expected in state["files"].items():
            if name not in FILES:
                return f"state.json names {name!a}, which is no file of a checkpoint"
            found = (path / name).stat().st_size
            if found != expected["bytes"]:
                return f"{name} has {found} bytes instead of {expected['bytes']}"
            if sha256_of(path / name) != expected["sha256"]:
                return f"{name} is not what was written (another sha256)"
    except (OSError, XmdptError, SafetensorError) as err:
        return str(err).splitlines()[0] if str(err) else type(err).__name__
    return ""


def _complete(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return [path for path in steps_in(folder) if (path / "state.json").is_file()]


def _checked(
    path: Path, models: Mapping[str, nn.Module], check: Callable[[Path], None] | None
) -> dict[str, Any]:
    wrong = verify(path)
    if wrong:
        raise _refusal(path, wrong)
    if check is not None:
        check(path / MODEL)
    state: dict[str, Any] = records.read(State, path / "state.json")
    for name, module in models.items():
        if name not in state["files"]:
            raise XmdptError(f"{path} has no {name}", "choose another --out")
        check_model_state(module, path / name)
    return state


def _refusal(path: Path, reason: str) -> XmdptError:
    """The error, whose hint says how to resume from the newest older checkpoint that is intact."""
    older = [p for p in _complete(path.parent) if p < path]
    whole = next((p for p in reversed(older) if not verify(p)), None)
    torn = [p for p in older if whole is None or p > whole]
    then = f"resumes from {whole.name}, which is intact" if whole else "starts anew: none is intact"
    remove = " ".join(str(p) for p in [path, *reversed(torn)])
    return XmdptError(
        f"cannot continue from {path}: {reason}",
        f"rm -r {remove}  # the same command then {then}",
    )


@contextmanager
def _new_checkpoint(final: Path, part: Path) -> Iterator[None]:
    """Create the hidden folder ``part``; rename it to ``final`` at the end of the block.

    Removes what killed processes left. Errors of the disk become XmdptErrors.
    """
    with writing(f"checkpoint {final}"):
        for left in final.parent.glob(".step_*"):
            shutil.rmtree(left)
        with atomic_write(final, part):
            part.mkdir(parents=True)
            try:
                yield
            except SafetensorError as err:  # how that library reports errors of the disk
                raise OSError(str(err)) from err


def _write(final: Path, file: Path, tensors: Mapping[str, Tensor]) -> Sums:
    """Write one file and read it back from the disk; returns its size and sha256."""
    save_file(dict(tensors), file)
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())
    sums = Sums(bytes=file.stat().st_size, sha256=sha256_of(file, from_disk=True))
    if not _holds(file, tensors):
        raise XmdptError(
            f"checkpoint {final}: {file.name} reads back other than it was written",
            "the disk is failing: older checkpoints are kept; copy the run to another disk",
        )
    return sums


def _holds(file: Path, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file holds exactly these tensors, bit for bit (so that NaN equals NaN)."""
    with safe_open(file, framework="pt") as found:
        if set(found.keys()) != set(tensors):
            return False
        pairs = ((found.get_tensor(key), value) for key, value in tensors.items())
        return all(
            a.shape == b.shape and a.dtype == b.dtype and torch.equal(_bytes(a), _bytes(b))
            for a, b in pairs
        )


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _remove_older(newest: Path, keep: int, keep_every: int) -> None:
    """Name the newest checkpoint in ``latest`` and remove older ones."""
    folder = newest.parent
    with writing(f"checkpoint {newest}"):
        write_text(folder / "latest", newest.name)
        for old in _complete(folder)[:-keep]:
            if keep_every == 0 or step_of(old) % keep_every:
                remove_folder(old)
