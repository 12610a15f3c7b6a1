"""A run that is killed and resumes makes the weights of one that was not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from xmdpt_cli.bench.gpu_check.data import dataset
from xmdpt_cli.bench.gpu_check.rows import MISSED, NOT_RUN, OK, Row, Setting, at_most
from xmdpt_cli.training.checkpoint import FILES, latest

EVERY = 4  # steps between checkpoints
#: a resumed run may be so many times as far off as two runs are from one another
TIMES = 5.0


def resume(setting: Setting, compiled: bool = False) -> Iterator[Row]:
    """Three runs of ``xmdpt train``'s loop: two complete ones, and one that is killed after its
    first checkpoint and resumed. If the complete runs differ (sums on a GPU have no fixed order),
    the resumed one may differ as much; with deterministic algorithms all three must be equal."""
    if compiled and not setting.compile:
        yield Row("resume", verdict=NOT_RUN, note="torch.compile is off")
        return
    dataset(setting)
    modes = [False] if compiled or setting.small else [False, True]
    for deterministic in modes:
        base = {"compiled": compiled, "deterministic": deterministic}
        whole, again, cut = (setting.work / f"{name}-{compiled}-{deterministic}" for name in "abc")
        killed_at = _train(setting, base, (whole, again), cut)
        called = "compiled" if compiled else "not compiled"
        called += ", deterministic algorithms" if deterministic else ""
        own, resumed = difference(whole, again), difference(whole, cut)
        note = f"{killed_at}; two complete runs: {_difference_text(own)}"
        for out in (whole, again, cut):
            shutil.rmtree(out)  # gigabytes
        if own == 0 or deterministic:
            yield at_most(f"{called}: resumed - not interrupted", resumed, 0.0, note=note)
        else:
            verdict = OK if resumed <= TIMES * own else MISSED
            target = f"<= {TIMES:g} times two complete runs' difference"
            check = f"{called}: resumed - not interrupted"
            yield Row(check, resumed, "", target, verdict, note)


def difference(a: Path, b: Path) -> float:
    """Largest difference over the largest value, of any tensor of the last checkpoints: weights,
    their average, the optimizer's state. 0: the same bits."""
    worst = 0.0
    first, second = latest(a / "checkpoints"), latest(b / "checkpoints")
    assert first is not None
    assert second is not None
    assert first.name == second.name
    for name in FILES:
        one, two = load_file(first / name), load_file(second / name)
        assert one.keys() == two.keys()
        for key, value in one.items():
            if torch.equal(value, two[key]):
                continue
            scale = float(value.float().abs().max()) or 1.0
            worst = max(worst, float((value - two[key]).float().abs().max()) / scale)
    return worst


def one_run(
    data: str, out: str, device: str, small: bool, compiled: bool, deterministic: bool
) -> None:
    """Train; in a process of its own."""
    from xmdpt_cli.training.config import TrainConfig
    from xmdpt_cli.training.loop import train

    if deterministic:
        # warnings alone would leave the fused attention's gradients as they are
        torch.use_deterministic_algorithms(True)
    config = TrainConfig(
        size="tiny" if small else "S",
        batch_size=2 if small else 32,
        steps=2 * EVERY,
        checkpoint_every=EVERY,
        log_every=EVERY,
        learning_rate=1e-3,
        ema=0.9,
        compile="on" if compiled else "off",
    )
    train(config, data, Path(out), device=device)


def _start(setting: Setting, out: Path, given: dict[str, Any]) -> subprocess.Popen[bytes]:
    arguments = {
        "data": str(setting.work / "data"),
        "out": str(out),
        "device": setting.device,
        "small": setting.small,
        **given,
    }
    code = f"import json, sys; from {__name__} import one_run; one_run(**json.loads(sys.argv[1]))"
    # deterministic results need a cuBLAS workspace of a fixed size
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    return subprocess.Popen([sys.executable, "-c", code, json.dumps(arguments)], env=environment)


def _train(setting: Setting, given: dict[str, Any], whole: Sequence[Path], cut: Path) -> str:
    """Run all at once, since nothing is timed; returns where ``cut`` was killed and resumed."""
    running = {out: _start(setting, out, given) for out in (*whole, cut)}
    try:
        killed_at = _killed(running[cut], cut)
        running[cut] = _start(setting, cut, given)
        for process in running.values():
            if process.wait() != 0:
                raise RuntimeError(f"a training ended with exit code {process.returncode}")
    finally:
        for process in running.values():
            process.kill()
    return killed_at


def _killed(process: subprocess.Popen[bytes], out: Path) -> str:
    """Kill it after its first checkpoint; returns from where it can resume."""
    first = out / "checkpoints" / f"step_{EVERY:07d}" / "state.json"
    while process.poll() is None and not first.exists():
        time.sleep(0.005)
    if process.poll() is not None:
        if process.returncode != 0:
            raise RuntimeError(f"a training ended with exit code {process.returncode}")
        return "it ended before it could be killed"
    process.kill()
    process.wait()
    kept = latest(out / "checkpoints")
    return f"killed, resumed from {'nothing' if kept is None else kept.name}"


def _difference_text(value: float) -> str:
    return "the same bits" if value == 0 else f"{value:.2g} apart"
