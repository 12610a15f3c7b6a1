"""A run that is killed and resumed ends with the weights of an uninterrupted run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from xmdpt_cli.bench.gpu_check.rows import MISSED, NOT_RUN, OK, Row, Setting, at_most
from xmdpt_cli.bench.gpu_check.training import dataset
from xmdpt_cli.training.checkpoint import FILES, latest

EVERY = 4  # steps between checkpoints
#: a resumed run may differ this many times as much as two complete runs do from each other
TIMES = 5.0


def resume(setting: Setting, compiled: bool = False) -> Iterator[Row]:
    """Three runs of ``xmdpt train``'s loop: two complete ones, and one that is killed after its
    first checkpoint and resumed. If the complete runs differ (sums on a GPU have no fixed order),
    the resumed one may differ as much; with deterministic algorithms all three must be equal."""
    if compiled and not setting.compile:
        yield Row("resume", verdict=NOT_RUN, note="torch.compile is off")
        return
    dataset(setting)
    for deterministic in [False] if compiled or setting.small else [False, True]:
        config = {"compiled": compiled, "deterministic": deterministic}
        first, second, cut = (setting.work / f"{name}-{compiled}-{deterministic}" for name in "abc")
        killed_at = _train(setting, config, [first, second], cut)
        complete, resumed = difference(first, second), difference(first, cut)
        for out in (first, second, cut):
            shutil.rmtree(out)  # gigabytes
        check = "compiled" if compiled else "not compiled"
        check += ", deterministic algorithms" if deterministic else ""
        check += ": resumed - not interrupted"
        same = "the same bits" if complete == 0 else f"{complete:.2g} apart"
        note = f"{killed_at}; two complete runs: {same}"
        if complete == 0 or deterministic:
            yield at_most(check, resumed, 0.0, note=note)
        else:
            verdict = OK if resumed <= TIMES * complete else MISSED
            target = f"<= {TIMES:g} times two complete runs' difference"
            yield Row(check, resumed, "", target, verdict, note)


def difference(a: Path, b: Path) -> float:
    """Largest difference over the largest value, of any tensor of two runs' last checkpoints:
    weights, their average, the optimizer's state. 0: the same bits."""
    worst = 0.0
    first, second = latest(a / "checkpoints"), latest(b / "checkpoints")
    assert first is not None
    assert second is not None
    assert first.name == second.name
    for name in FILES:
        one, two = load_file(first / name), load_file(second / name)
        assert one.keys() == two.keys()
        for key, value in one.items():
            if not torch.equal(value, two[key]):
                scale = float(value.float().abs().max()) or 1.0
                worst = max(worst, float((value - two[key]).float().abs().max()) / scale)
    return worst


def train_once(
    data: str, out: str, device: str, small: bool, compiled: bool, deterministic: bool
) -> None:
    """Train, or resume, a run of two checkpoints; called in a separate process."""
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


def _start(setting: Setting, out: Path, config: dict[str, Any]) -> subprocess.Popen[bytes]:
    data = str(setting.work / "data")
    options = {"data": data, "out": str(out), "device": setting.device, "small": setting.small}
    code = "import json, sys; "
    code += f"from {__name__} import train_once; train_once(**json.loads(sys.argv[1]))"
    # deterministic results need a cuBLAS workspace of a fixed size
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    command = [sys.executable, "-c", code, json.dumps(options | config)]
    return subprocess.Popen(command, env=environment)


def _train(setting: Setting, config: dict[str, Any], complete: list[Path], cut: Path) -> str:
    """Train all runs at once, since nothing is timed; returns where ``cut`` was resumed."""
    running = {out: _start(setting, out, config) for out in (*complete, cut)}
    try:
        killed_at = _kill(running[cut], cut)
        running[cut] = _start(setting, cut, config)
        for process in running.values():
            _check(process.wait())
    finally:
        for process in running.values():
            process.kill()
    return killed_at


def _kill(process: subprocess.Popen[bytes], out: Path) -> str:
    """Kill a run after its first checkpoint; returns where it will resume."""
    first = out / "checkpoints" / f"step_{EVERY:07d}" / "state.json"
    while process.poll() is None and not first.exists():
        time.sleep(0.005)
    if process.poll() is not None:
        _check(process.returncode)
        return "it ended before it could be killed"
    process.kill()
    process.wait()
    kept = latest(out / "checkpoints")
    return f"killed, resumed from {'nothing' if kept is None else kept.name}"


def _check(exit_code: int) -> None:
    if exit_code != 0:
        raise RuntimeError(f"a training ended with exit code {exit_code}")
