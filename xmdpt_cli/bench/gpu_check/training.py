"""Training steps as ``xmdpt train`` takes them: speed, and that no step waits or compiles again."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path

import torch

from xmdpt_cli.bench.gpu_check.rows import Ready, Row, Setting, at_most, holds, speed
from xmdpt_cli.bench.loader import ITEMS_PER_SHARD, make_dataset
from xmdpt_cli.bench.timing import synchronize
from xmdpt_cli.config import resolve
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.prefetch import prefetch
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.estimate import pair_flops
from xmdpt_cli.training.find_batch_size import find_batch_size, largest_that_fits
from xmdpt_cli.training.flops import peak_flops
from xmdpt_cli.training.logger import TimedIterator
from xmdpt_cli.training.step_noise import StepBatch
from xmdpt_cli.training.task import TrainTask
from xmdpt_cli.training.trainer import Trainer

WARM = 5  # steps after the first one, before anything is counted
SHOWN = 6  # kernels, places
PAPER = "paper/S-256"  # the size is set apart


def training(
    setting: Setting, size: str, least_mfu: float | None = None, preset: str = PAPER
) -> Iterator[Row | Ready]:
    """A recipe at 256 px, batch 32, on random features. ``least_mfu``: in per cent."""
    config = _config(setting, setting.size(size), setting.pick(32, 2), preset)
    trainer = Trainer(TrainTask(config, dataset(setting)), setting.device)
    device, name = trainer.device, f"{config.size}, batch {config.batch_size}"
    with closing(batches_of(trainer)) as batches:
        timed = TimedIterator(batches)
        start = time.perf_counter()
        losses = trainer.step(timed)
        synchronize(device)
        first = time.perf_counter() - start

        def step() -> None:
            nonlocal losses
            losses = trainer.step(timed)

        for _ in range(setting.pick(WARM, 1)):
            step()
        synchronize(device)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # room for the other parts of this wave
        yield Ready()
        yield speed(setting, f"{name}: first step", first, "s", note="compilation included")
        graphs, count = compiled_graphs(), setting.pick(40, 2)
        step()
        yield from _waits(name, setting, device, step)
        timed.pop_seconds()
        start = time.perf_counter()
        for _ in range(count):
            step()
        synchronize(device)
        seconds = (time.perf_counter() - start) / count
        waited = timed.pop_seconds() / count
        yield from _speed(setting, name, trainer, seconds, waited, least_mfu)
        again = compiled_graphs() - graphs
        yield at_most(f"{name}: compilations after the first {WARM + 1} steps", again, 0)
        loss = float(losses.total)
        yield holds(f"{name}: loss", math.isfinite(loss), "a number", note=f"{loss:.4g}")
        if device.type == "cuda":
            yield _kernels(name, device, step)


def batch_auto(setting: Setting) -> Iterator[Row]:
    """``--batch-size auto``: what it finds, and that training with it fits in memory."""
    config, data, device = _config(setting, setting.size("L"), 2), dataset(setting), setting.where
    task = TrainTask(dataclasses.replace(config, compile="off"), data)
    if device.type == "cpu":  # whose memory this check does not exhaust
        found = largest_that_fits(Trainer(task, device), 3)
    else:
        start = time.perf_counter()
        found = find_batch_size(task.replace(batch_size=0), device)
        seconds = time.perf_counter() - start
        yield speed(setting, f"{config.size}: time to find the batch size", seconds, "s")
    note = "all pairs of the dataset" if found == len(data) else ""
    yield speed(setting, f"{config.size}: batch size that is found", found, "pairs", note=note)
    trainer = Trainer(task.replace(batch_size=found), device)
    with closing(batches_of(trainer)) as batches:
        for _ in range(3):
            losses = trainer.step(batches)
    finite, note = math.isfinite(float(losses.total)), ""
    if device.type == "cuda":
        note = f"{torch.cuda.max_memory_allocated(device) / 2**30:.3g} GiB allocated at the most"
    check = f"{config.size}: three steps with it, not compiled"
    yield holds(check, finite, "no error", note=note)


def dataset(setting: Setting) -> PairDataset:
    """Random numbers in the sizes of 256 px features.

    The first part that needs it makes it. Parts of one wave may make it at the same time, and all
    use the first that is complete.
    """
    folder = setting.work / "data"
    if not folder.is_dir():
        unfinished = setting.work / f"data.{os.getpid()}"
        items = setting.pick(ITEMS_PER_SHARD, 2)
        make_dataset(unfinished, setting.pick(300_000_000, 1), items=items)
        try:
            unfinished.rename(folder)
        except OSError:  # another part finished first
            shutil.rmtree(unfinished)
    return PairDataset(folder, "train")


def _config(setting: Setting, size: str, batch: int, preset: str = PAPER) -> TrainConfig:
    given = {"size": size, "batch_size": batch, "compile": "on" if setting.compile else "off"}
    return resolve(TrainConfig, "train", given, preset=preset)


def batches_of(trainer: Trainer) -> Generator[StepBatch, None, None]:
    """The batches as the training loop reads them."""
    pin = trainer.device if trainer.device.type == "cuda" else None
    return prefetch(trainer.loader(), 0, pin=pin)


def _speed(
    setting: Setting,
    name: str,
    trainer: Trainer,
    seconds: float,
    waited: float,
    least_mfu: float | None,
) -> Iterator[Row]:
    """Rows of a step that takes ``seconds``, of which it waits ``waited`` for its batch."""
    rate = trainer.config.batch_size / seconds
    note = f"{seconds * 1e3:.3g} ms a step"
    yield speed(setting, f"{name}: training", rate, "images/s", note=note)
    device, work = trainer.device, pair_flops(trainer.task)
    peak = peak_flops(device, trainer.autocast)
    if peak is not None:
        note = f"{work / 1e9:.4g} GFLOP per pair, peak {peak / 1e12:.0f} TFLOP/s"
        mfu = 100 * work * rate / peak
        yield speed(setting, f"{name}: MFU", mfu, "%", least=least_mfu, note=note)
    elif setting.small:
        yield speed(setting, f"{name}: work", work / 1e9, "GFLOP per pair")
    yield speed(setting, f"{name}: waiting for data", 100 * waited / seconds, "%", most=2.0)
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device) / 2**30
        yield speed(setting, f"{name}: memory", memory, "GiB")


def _waits(
    name: str, setting: Setting, device: torch.device, step: Callable[[], None]
) -> Iterator[Row]:
    """Host syncs that PyTorch reports; and whether Python returns long before the device is done,
    which also shows copies from memory that is not page-locked."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(setting.pick(5, 1)):
                step()
            synchronize(device)
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    places = sorted({f"{Path(w.filename).name}:{w.lineno}" for w in caught if is_sync(w)})
    note = ", ".join(places[:SHOWN])
    yield at_most(f"{name}: places that wait for the GPU", len(places), 0, note=note)
    if device.type != "cuda":
        return
    time.sleep(0.3)  # batches are read ahead meanwhile
    start = time.perf_counter()
    for _ in range(2):
        step()
    back = time.perf_counter() - start
    synchronize(device)
    total = time.perf_counter() - start
    note = "of two steps: near 100 % means that it waits, or that launching takes the time"
    yield speed(setting, f"{name}: until Python is back", 100 * back / total, "%", note=note)


def is_sync(warning: warnings.WarningMessage) -> bool:
    """Whether it reports an operation that waits, not that this mode of PyTorch is a prototype."""
    return "called a synchronizing" in str(warning.message)


def compiled_graphs() -> int:
    """Number of graphs that torch.compile has compiled in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def _kernels(name: str, device: torch.device, step: Callable[[], None]) -> Row:
    """The kernels that take most of the time: where to start when a target is missed."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(2):
            step()
        torch.cuda.synchronize(device)
    times = {event.key: float(event.self_device_time_total) for event in found.key_averages()}
    total = sum(times.values()) or 1.0
    first = sorted(times.items(), key=lambda item: -item[1])[:SHOWN]
    note = "; ".join(f"{100 * spent / total:.0f} % {kernel[:60]}" for kernel, spent in first)
    return Row(f"{name}: kernels that take most", note=note)
