"""What a run writes down while it trains: metrics.jsonl, TensorBoard, and a tracker if asked for.

Losses are gathered as tensors on their device and read once a line: reading waits for the device.
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

from xmdpt_cli.diffusion import Losses
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import write_text, writing
from xmdpt_cli.images import Picture
from xmdpt_cli.training.distributed import SINGLE_PROCESS, Distributed
from xmdpt_cli.training.tracker import Tracker
from xmdpt_cli.utils import records

T = TypeVar("T")

MUCH_WAITING = 0.10  # share of the time: more is worth a warning
# A share is judged over this many seconds and steps: the first batches are always waited for.
WARN_SECONDS, WARN_STEPS = 30.0, 20
WAITING_HINT = (
    "Put the shards on a local disk, keep their tokens in fp8 (xmdpt prepare --tokens fp8), "
    "leave the machine's cores to this run, or take a larger model: it will not be slower."
)


class Log:
    """Lines of means over the steps since the line before: every ``every`` steps, at step 1 and at
    the last of ``steps``.

    A line holds: averaged_steps (those it is a mean of: fewer than ``every`` at the first line
    after an interruption), loss (all that is minimised), mse, vb, masked_mse, masked_vb,
    learning_rate,
    images_per_second, steps_per_second, data_wait (share of the time the loop waited for a
    batch), gpu_memory (GiB, the most that was allocated so far) on a GPU, and mfu (0..1, model
    FLOPs used of the device's peak) where both ``flops_per_image`` and ``peak`` are known.
    Means are over all ranks of ``dist``, which all must call ``add``; rank 0 writes. Time inside
    ``paused()`` counts for nothing.

    ``done``: steps of the checkpoint the run goes on from; what was written of later steps is cut,
    they will be written again. ``say`` hears, once, that the loop waits for data too much.
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
        say: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.path, self.every, self.dist = out / "metrics.jsonl", every, dist
        self.device = torch.device(device)
        self.flops_per_image, self.peak = flops_per_image, peak
        self.tracker, self.say, self.clock = tracker, say, clock
        self.steps = steps
        self.last = 0.0  # the loss of the last line: not finite if it is no number
        self.shown: dict[str, float] = {}  # what a bar shows of it
        self.lines = 0  # by this process
        self.events: Any = None
        if dist.is_main:
            from torch.utils.tensorboard import SummaryWriter

            cut(self.path, done)
            self.events = SummaryWriter(str(out), purge_step=done + 1)
        self.warned = False
        self._begin_judging()
        self._begin_window()

    def _begin_window(self) -> None:
        self.rows: list[dict[str, Tensor]] = []
        self.images, self.waited, self.began = 0, 0.0, self.clock()

    def _begin_judging(self) -> None:
        self.judged_seconds, self.judged_waiting, self.judged_steps = 0.0, 0.0, 0

    def add(
        self, losses: Losses, step: int, images: int, waited: float, learning_rate: float
    ) -> None:
        """After optimizer step ``step`` (from 1) on ``images`` pairs (of all processes).

        ``waited``: seconds the loop stood still until the batch was there.
        """
        terms = {"loss": losses.total, "mse": losses.mse, "vb": losses.vb}
        if losses.masked_mse is not None and losses.masked_vb is not None:
            terms |= {"masked_mse": losses.masked_mse, "masked_vb": losses.masked_vb}
        self.rows.append({name: value.detach().mean() for name, value in terms.items()})
        self.images += images
        self.waited += waited
        if step % self.every and step not in (1, self.steps):
            return
        # one transfer, which waits for the device: only after it is the time of the steps known
        found = torch.stack([torch.stack(list(row.values())) for row in self.rows]).mean(dim=0)
        found = self.dist.all_reduce_mean(torch.cat([found, found.new_tensor([self.waited])]))
        *values, self.waited = found.tolist()
        means = dict(zip(terms, values, strict=True))
        seconds = max(self.clock() - self.began, 1e-9)
        speed, averaged = self._speed(seconds), len(self.rows)
        self._judge(seconds)
        self._begin_window()
        self.lines += 1
        self.last = means["loss"]
        self.shown = {"loss": self.last}  # the most useful first: a narrow terminal shows these
        self.shown |= {k: v for k, v in speed.items() if k != "steps_per_second"}
        if "masked_mse" in means:
            self.shown["masked"] = means["masked_mse"] + means["masked_vb"]
        self.values(step, {**means, "learning_rate": learning_rate, **speed}, averaged)

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

    def _judge(self, seconds: float) -> None:
        """Say once that data is waited for; the first line, warming up, is not counted."""
        if self.lines == 0 or self.warned:
            return
        self.judged_seconds += seconds
        self.judged_waiting += self.waited
        self.judged_steps += len(self.rows)
        if self.judged_seconds < WARN_SECONDS or self.judged_steps < WARN_STEPS:
            return
        share = self.judged_waiting / self.judged_seconds
        self._begin_judging()
        if share > MUCH_WAITING:
            self.warned = True
            self.say(
                f"{share:.0%} of the time goes into waiting for data: the shards are read more "
                f"slowly than the model trains. {WAITING_HINT}"
            )

    def values(self, step: int, values: Mapping[str, float], averaged: int = 0) -> None:
        """One more line: these numbers at this step. A number that is none is written as null.

        ``averaged``: steps that they are means of, written with them; 0: they are no means.
        """
        if not self.dist.is_main:
            return
        numbers: dict[str, float | None] = {"averaged_steps": averaged} if averaged else {}
        numbers |= {name: v if math.isfinite(v) else None for name, v in values.items()}
        with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **numbers}) + "\n")
        for name, value in values.items():
            self.events.add_scalar(name, value, step)
        if self.tracker is not None:
            self.tracker.values(step, values)

    def picture(self, step: int, name: str, picture: Picture) -> None:
        """A picture for TensorBoard and the tracker."""
        self.events.add_image(name, picture, step, dataformats="HWC")
        if self.tracker is not None:
            self.tracker.picture(step, name, picture)

    def has(self, step: int, name: str) -> bool:
        """Whether a line of this step with this number is written."""
        return any(line["step"] == step and name in line for line in read(self.path))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is neither training nor waiting for data."""
        at = self.clock()
        try:
            yield
        finally:
            self.began += self.clock() - at

    def close(self) -> None:
        if self.events is not None:
            self.events.close()
        if self.tracker is not None:
            self.tracker.close()


class Timed(Generic[T]):
    """An iterator that knows how long it was waited for."""

    def __init__(self, inner: Iterator[T]) -> None:
        self.inner, self.seconds = inner, 0.0

    def __iter__(self) -> Timed[T]:
        return self

    def __next__(self) -> T:
        at = time.perf_counter()
        try:
            return next(self.inner)
        finally:
            self.seconds += time.perf_counter() - at

    def taken(self) -> float:
        """Seconds since this was last asked."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


class _Line(TypedDict):
    step: int


def read(path: Path) -> list[dict[str, float | None]]:
    """The whole lines of a metrics.jsonl; a full disk or a kill cuts the last one short."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(XmdptError):
            lines.append(records.parse(_Line, text, path))
    return lines


def cut(path: Path, done: int) -> None:
    """Leave out of a metrics.jsonl what is not whole, and the steps after ``done``."""
    if path.is_file():
        kept = [line for line in read(path) if (line["step"] or 0) <= done]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
