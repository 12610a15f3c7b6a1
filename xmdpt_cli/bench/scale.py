"""``xmdpt bench scale``: how training scales with the number of processes.

Each round starts every number of processes in turn, by torchrun as for ``xmdpt train``. Each
process takes the same number of steps with the same batch size. On a CPU the processes share its
cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import torch

from xmdpt_cli.bench.machine import Machine
from xmdpt_cli.bench.report import Report, Row, compare_to_first
from xmdpt_cli.bench.timing import clock
from xmdpt_cli.bench.train import make_inputs
from xmdpt_cli.diffusion import Schedule
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.model import XMDPT
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.distributed import Distributed
from xmdpt_cli.training.optimizer import make_optimizers
from xmdpt_cli.training.parallel import parallelize
from xmdpt_cli.training.step import TrainStep
from xmdpt_cli.utils.devices import cores


def measure_scaling(
    size: str,
    device: torch.device,
    batch: int,
    most: int | None = None,
    *,
    steps: int = 5,
    rounds: int = 3,
    progress: Progress = silent,
) -> Report:
    """Measure 1, 2, 4 ... ``most`` processes with ``batch`` pairs in each.

    By default ``most`` is the number of GPUs, or of cores on a CPU. XmdptError if a training fails.
    """
    machine = Machine.here(device)
    most = most or (torch.cuda.device_count() if device.type == "cuda" else cores())
    counts = sorted({*(2**k for k in range(most.bit_length())), most})
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    for number in range(rounds):
        for count in counts:
            total = _launch(count, size, device, batch, steps)
            seconds[count].append(total / (steps * batch * count))
        progress("rounds", number + 1, rounds)
    rows = [
        Row.of(f"X-MDPT-{size} / {count} process{'es' if count > 1 else ''}", values)
        for count, values in seconds.items()
    ]
    compare_to_first(rows)
    for count, row in zip(counts, rows, strict=True):
        row.efficiency = row.speedup["first"].median / count if count > 1 else 1.0
    settings = {"size": size, "batch": batch, "steps": steps, "rounds": rounds}
    title = "training in several processes, seconds for one pair"
    notes = ["random weights"]
    if device.type == "cpu":
        notes.append("the processes share this machine's cores")
    return Report("scale", title, settings, machine, rows, notes=notes)


def _launch(count: int, size: str, device: torch.device, batch: int, steps: int) -> float:
    """Seconds of ``steps`` steps in ``count`` processes. XmdptError if they fail."""
    command = [sys.executable]
    if count > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command += ["-m", "xmdpt_cli.bench.scale", size, device.type, str(batch), str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores() // count))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    for line in done.stdout.splitlines():
        if line.startswith('{"seconds"'):
            return float(json.loads(line)["seconds"])
    raise XmdptError(
        f"{count} processes did not train: {(done.stderr.strip().splitlines() or ['?'])[-1]}",
        "measure fewer with --processes",
    )


def train_here(size: str, device: str, batch: int, steps: int) -> None:
    """Train in this process; rank 0 prints the seconds of the slowest process."""
    dist = Distributed.init(device, "ddp")
    torch.manual_seed(0)
    config = TrainConfig(size=size, batch_size=batch)
    model = XMDPT.from_size(size).to(dist.device)
    inputs = make_inputs(model, batch, dist.device, seed=dist.rank)
    module = TrainStep(model, config, Schedule().to(dist.device))
    module.autocast = dist.device.type == "cuda"
    step = parallelize(module, dist)
    (optimizer,) = make_optimizers(model, config)

    def train(times: int) -> None:
        for _ in range(times):
            optimizer.zero_grad(set_to_none=True)
            step(inputs).total.backward()
            optimizer.step()

    train(2)  # warm-up; DDP builds its gradient buckets in the first step
    dist.all_gather(None)
    seconds = clock(dist.device)(lambda: train(steps))
    slowest = max(dist.all_gather(seconds))
    if dist.is_main:
        print(json.dumps({"seconds": slowest}), flush=True)


if __name__ == "__main__":
    train_here(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
