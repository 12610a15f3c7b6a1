"""Training steps as ``xmdpt train`` takes them: speed, and that nothing waits or compiles again."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import torch

from xmdpt_cli.bench.gpu_check.data import dataset
from xmdpt_cli.bench.gpu_check.rows import Ready, Row, Setting, at_most, holds, speed
from xmdpt_cli.data.prefetch import prefetch
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.estimate import pair_flops
from xmdpt_cli.training.find_batch_size import find_batch_size, largest_that_fits
from xmdpt_cli.training.flops import peak_flops
from xmdpt_cli.training.logger import TimedIterator
from xmdpt_cli.training.step import StepBatch
from xmdpt_cli.training.trainer import Trainer

WARM = 5  # steps before anything is counted, the compilation among them
SHOWN = 6  # kernels


def training(setting: Setting, size: str, least_mfu: float | None) -> Iterator[Row | Ready]:
    """The paper's recipe at 256 px, batch 32, on random features."""
    size = setting.size(size)
    config, data = _config(setting, size, setting.pick(32, 2)), dataset(setting)
    trainer = Trainer(config, data, setting.device)
    device, batch = trainer.device, trainer.config.batch_size
    called = f"{size}, batch {batch}"
    with closing(batches_of(trainer)) as batches:
        timed = TimedIterator(batches)
        start = time.perf_counter()
        trainer.step(timed)
        synchronize(device)
        first = time.perf_counter() - start
        for _ in range(setting.pick(WARM, 1)):
            losses = trainer.step(timed)
        synchronize(device)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # room for the other parts of this wave
        yield Ready()

        def step() -> None:
            nonlocal losses
            losses = trainer.step(timed)

        yield speed(setting, f"{called}: first step", first, "s", note="compilation included")
        graphs, count = _graphs(), setting.pick(40, 2)
        step()
        yield from _waiting(called, setting, device, step)
        timed.pop_seconds()
        start = time.perf_counter()
        for _ in range(count):
            step()
        synchronize(device)
        seconds = (time.perf_counter() - start) / count
        waited = timed.pop_seconds() / count
        yield from _speed(setting, called, trainer, seconds, waited, least_mfu)
        again = _graphs() - graphs
        yield at_most(f"{called}: compilations after the first {WARM + 1} steps", again, 0)
        finite = math.isfinite(float(losses.total))
        yield holds(f"{called}: loss", finite, "a number", note=f"{float(losses.total):.4g}")
        yield from _kernels(called, device, step)


def batch_auto(setting: Setting) -> Iterator[Row]:
    """``--batch-size auto``: what it finds, and that training with it has the memory."""
    config, data, device = _config(setting, setting.size("L"), 2), dataset(setting), setting.where
    config = dataclasses.replace(config, compile="off")
    if device.type == "cpu":  # where memory never runs out in this check
        found = largest_that_fits(Trainer(config, data, device), 3)
    else:
        start = time.perf_counter()
        found = find_batch_size(dataclasses.replace(config, batch_size=0), data, device)
        seconds = time.perf_counter() - start
        yield speed(setting, f"{config.size}: time to find the batch size", seconds, "s")
    note = "all pairs of the dataset" if found == len(data) else ""
    yield speed(setting, f"{config.size}: batch size that is found", found, "pairs", note=note)
    trainer = Trainer(dataclasses.replace(config, batch_size=found), data, device)
    with closing(batches_of(trainer)) as batches:
        for _ in range(3):
            losses = trainer.step(batches)
    finite = math.isfinite(float(losses.total))
    memory = ""
    if device.type == "cuda":
        memory = f"{torch.cuda.max_memory_allocated(device) / 2**30:.3g} GiB allocated at the most"
    yield holds(
        f"{config.size}: three steps with it, not compiled", finite, "no error", note=memory
    )


def _config(setting: Setting, size: str, batch: int) -> TrainConfig:
    return TrainConfig(size=size, batch_size=batch, compile="on" if setting.compile else "off")


def batches_of(trainer: Trainer) -> Generator[StepBatch, None, None]:
    """As the training loop reads them."""
    pin = trainer.device if trainer.device.type == "cuda" else None
    return prefetch(trainer.loader(), 0, pin=pin)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _speed(
    setting: Setting,
    called: str,
    trainer: Trainer,
    seconds: float,
    waited: float,
    least_mfu: float | None,
) -> Iterator[Row]:
    rate = trainer.config.batch_size / seconds
    yield speed(
        setting, f"{called}: training", rate, "images/s", note=f"{seconds * 1e3:.3g} ms a step"
    )
    device = trainer.device
    peak = peak_flops(device, trainer.autocast)
    work = pair_flops(trainer.config, trainer.dataset)
    if peak is not None:
        mfu = 100 * work * rate / peak
        least = None if least_mfu is None else 100 * least_mfu
        note = f"{work / 1e9:.4g} GFLOP a pair, peak {peak / 1e12:.0f} TFLOP/s"
        yield speed(setting, f"{called}: MFU", mfu, "%", least=least, note=note)
    elif setting.small:
        yield speed(setting, f"{called}: work", work / 1e9, "GFLOP a pair")
    share = 100 * waited / seconds
    yield speed(setting, f"{called}: waiting for data", share, "%", most=2.0)
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device) / 2**30
        yield speed(setting, f"{called}: memory", memory, "GiB")


def _waiting(
    called: str, setting: Setting, device: torch.device, step: Callable[[], None]
) -> Iterator[Row]:
    """Host syncs that PyTorch knows of; and whether Python is back long before the device is done,
    which also shows copies from memory that is not page-locked."""
    places = []
    with sync_warnings(device) as caught:
        for _ in range(setting.pick(5, 1)):
            step()
        synchronize(device)
        places = sorted({f"{Path(w.filename).name}:{w.lineno}" for w in caught if _is_sync(w)})
    note = ", ".join(places[:SHOWN])
    yield at_most(f"{called}: places that wait for the GPU", len(places), 0, note=note)
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
    yield speed(setting, f"{called}: until Python is back", 100 * back / total, "%", note=note)


@contextmanager
def sync_warnings(device: torch.device) -> Iterator[list[warnings.WarningMessage]]:
    """PyTorch warns of every operation that makes the host wait."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")


def _is_sync(warning: warnings.WarningMessage) -> bool:
    # not the warning that this mode of PyTorch's is a prototype
    return "called a synchronizing" in str(warning.message)


def _graphs() -> int:
    """Graphs that were compiled so far in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def _kernels(called: str, device: torch.device, step: Callable[[], None]) -> Iterator[Row]:
    """Which kernels take the time: to inspect when a target is missed."""
    if device.type != "cuda":
        return
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(2):
            step()
        torch.cuda.synchronize(device)
    times = {event.key: float(event.self_device_time_total) for event in found.key_averages()}
    total = sum(times.values()) or 1.0
    first = sorted(times.items(), key=lambda item: -item[1])[:SHOWN]
    note = "; ".join(f"{100 * spent / total:.0f} % {name[:60]}" for name, spent in first)
    yield Row(f"{called}: kernels that take most", note=note)
