"""The metrics of a run: metrics.jsonl, TensorBoard, and a tracker if the run has one.

Losses stay tensors on their device until a line is written: reading them waits for the device.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from typing_extensions import TypedDict

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import write_text, writing
from xmdpt_cli.images import ImageArray
from xmdpt_cli.progress import Say, silently
from xmdpt_cli.training.distributed import SINGLE_PROCESS, Distributed
from xmdpt_cli.training.tracker import Tracker
from xmdpt_cli.utils import records

T = TypeVar("T")

MAX_WAIT = 0.10  # share of the time, above which a warning is given
# The share is taken over this many seconds and steps: the loop always waits for the first batches.
WARN_SECONDS, WARN_STEPS = 30.0, 20
WAITING_HINT = (
    "Put the shards on a local disk, leave the machine's cores to this run, or take a larger "
    "model: it will not be slower. If the disk is the limit, fp8 tokens help (xmdpt prepare "
    "--tokens fp8): half the bytes, but more work for the cores."
)


class MetricsLogger:
    """Logs means over the steps since the previous line.

    Lines are written every ``every`` steps, at step 1 and at the last of ``steps``.

    A line holds: averaged_steps (those it is a mean of: fewer than ``every`` at the first line
    after an interruption), loss (all that is minimised), mse, vb, masked_mse, masked_vb, repa (a
    cosine similarity), attention_flow and attention_flow_joints where they are trained,
    learning_rate, images_per_second, steps_per_second, data_wait (share of the time the loop waited
    for a batch), gpu_memory (GiB, the peak so far) on a GPU, and mfu (FLOPs utilisation, 0..1)
    if both ``flops_per_image`` and ``peak`` are known.
    Means are over all ranks of ``dist``, which all must call ``log_step``; rank 0 writes. Time
    inside ``paused()`` does not count.

    ``done``: the step the run resumes from; lines of later steps are removed, as they will be
    written again. ``warn`` receives one message if the loop waits too long for data.
    """

    def __init__(
        self,
        out: Path,
        done: int,
        every: int,
        dist: Distributed = SINGLE_PROCESS,
        *,
        device: str | torch.device = "cpu",
        flops_per_image: float | None = None,
        peak: float | None = None,
        tracker: Tracker | None = None,
        steps: int | None = None,
        tensorboard: bool = True,
        warn: Say = silently,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.path, self.every, self.dist = out / "metrics.jsonl", every, dist
        self.device = torch.device(device)
        self.flops_per_image, self.peak = flops_per_image, peak
        self.tracker, self.warn, self.clock = tracker, warn, clock
        self.steps = steps
        self.last_loss = 0.0  # of the last line
        self.progress_values: dict[str, float] = {}  # what a progress bar shows
        self.validated: dict[str, float] = {}  # the newest val_loss, if there is one
        self.lines = 0  # by this process
        self.events: Any = None
        if dist.is_main:
            cut(self.path, done)
        if dist.is_main and tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.events = SummaryWriter(str(out), purge_step=done + 1)
        self.warned = False
        self._reset_wait()
        self._start_window()

    def _start_window(self) -> None:
        self.rows: list[Mapping[str, Tensor]] = []
        self.images, self.waited, self.started = 0, 0.0, self.clock()

    def _reset_wait(self) -> None:
        self.wait_window, self.wait_seconds, self.wait_steps = 0.0, 0.0, 0

    def log_step(
        self,
        terms: Mapping[str, Tensor],
        step: int,
        images: int,
        waited: float,
        learning_rate: float,
    ) -> None:
        """Record optimizer step ``step`` (from 1) on ``images`` pairs (over all processes).

        ``terms``: scalar losses by name, "loss" first; on all ranks the same names. ``waited``:
        seconds that the loop waited for the batch.
        """
        self.rows.append(terms)
        self.images += images
        self.waited += waited
        if step % self.every and step not in (1, self.steps):
            return
        # one transfer, which waits for the device: only after it is the time of the steps known
        found = torch.stack([torch.stack(list(row.values())) for row in self.rows]).mean(dim=0)
        found = self.dist.all_reduce_mean(torch.cat([found, found.new_tensor([self.waited])]))
        *values, self.waited = found.tolist()
        means = dict(zip(terms, values, strict=True))
        seconds = max(self.clock() - self.started, 1e-9)
        speed, averaged = self._speed(seconds), len(self.rows)
        self._check_wait(seconds)
        self._start_window()
        self.lines += 1
        self.last_loss = means["loss"]
        # most useful first, for narrow terminals
        self.progress_values = {"loss": self.last_loss, **self.validated}
        self.progress_values |= {k: v for k, v in speed.items() if k != "steps_per_second"}
        if "masked_mse" in means:
            self.progress_values["masked"] = means["masked_mse"] + means.get("masked_vb", 0.0)
        self.log(step, {**means, "learning_rate": learning_rate, **speed}, averaged)

    def _speed(self, seconds: float) -> dict[str, float]:
        out = {
            "images_per_second": self.images / seconds,
            "steps_per_second": len(self.rows) / seconds,
            "data_wait": min(1.0, self.waited / seconds),
        }
        if self.device.type == "cuda":
            out["gpu_memory"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        if self.flops_per_image is not None and self.peak is not None:
            out["mfu"] = self.flops_per_image * out["images_per_second"] / self.peak
        return out

    def _check_wait(self, seconds: float) -> None:
        """Warn once if the loop waits for data; the first line, a warm-up, does not count."""
        if self.lines == 0 or self.warned:
            return
        self.wait_window += seconds
        self.wait_seconds += self.waited
        self.wait_steps += len(self.rows)
        if self.wait_window < WARN_SECONDS or self.wait_steps < WARN_STEPS:
            return
        share = self.wait_seconds / self.wait_window
        self._reset_wait()
        if share > MAX_WAIT:
            self.warned = True
            self.warn(
                f"{share:.0%} of the time goes into waiting for data: the shards are read more "
                f"slowly than the model trains. {WAITING_HINT}"
            )

    def log(self, step: int, values: Mapping[str, float], averaged: int = 0) -> None:
        """Write a line with these values at this step; a value that is not finite becomes null.

        ``averaged``: the number of steps they are means of, if they are, written with them.
        """
        if not self.dist.is_main:
            return
        if "val_loss" in values:
            self.validated = {"val_loss": values["val_loss"]}
            self.progress_values |= self.validated
        numbers: dict[str, float | None] = {"averaged_steps": averaged} if averaged else {}
        numbers |= {name: v if math.isfinite(v) else None for name, v in values.items()}
        with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **numbers}) + "\n")
        if self.events is not None:
            for name, value in values.items():
                self.events.add_scalar(name, value, step)
        if self.tracker is not None:
            self.tracker.log(step, values)

    def log_image(self, step: int, name: str, image: ImageArray) -> None:
        """Send an image to TensorBoard and the tracker."""
        if self.events is not None:
            self.events.add_image(name, image, step, dataformats="HWC")
        if self.tracker is not None:
            self.tracker.log_image(step, name, image)

    def has(self, step: int, name: str) -> bool:
        """Whether a line of this step holds a value of this name."""
        return any(line["step"] == step and name in line for line in read(self.path))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time in the block counts neither as training nor as waiting for data."""
        at = self.clock()
        try:
            yield
        finally:
            self.started += self.clock() - at

    def close(self) -> None:
        if self.events is not None:
            self.events.close()
        if self.tracker is not None:
            self.tracker.close()


class TimedIterator(Generic[T]):
    """An iterator that measures how long its caller waits for it."""

    def __init__(self, inner: Iterator[T]) -> None:
        self.inner, self.seconds = inner, 0.0

    def __iter__(self) -> TimedIterator[T]:
        return self

    def __next__(self) -> T:
        at = time.perf_counter()
        try:
            return next(self.inner)
        finally:
            self.seconds += time.perf_counter() - at

    def pop_seconds(self) -> float:
        """Seconds waited since the last call."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


class _Line(TypedDict):
    step: int


def read(path: Path) -> list[dict[str, float | None]]:
    """The complete lines of a metrics.jsonl; a kill or a full disk may cut the last one short."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(XmdptError):
            lines.append(records.parse(_Line, text, path))
    return lines


def cut(path: Path, done: int) -> None:
    """Remove incomplete lines, and steps after ``done``, from a metrics.jsonl."""
    if path.is_file():
        kept = [line for line in read(path) if (line["step"] or 0) <= done]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
