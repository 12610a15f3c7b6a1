"""How training grows with processes: what ``xmdpt bench scale`` measures.

Every count of processes is started by torchrun as ``xmdpt train`` would be, and takes the same
steps of the same global work a process; each round starts all counts, in turn. On a CPU the
processes share its cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch

from xmdpt_cli.bench.machine import machine
from xmdpt_cli.bench.report import report
from xmdpt_cli.bench.timing import Spread, clock, ratios
from xmdpt_cli.bench.train import make_inputs, moved
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


def most(device: torch.device) -> int:
    """GPUs, or cores."""
    return torch.cuda.device_count() if device.type == "cuda" else cores()


def measure_scaling(
    size: str,
    device: torch.device,
    batch: int,
    counts: Sequence[int],
    *,
    steps: int = 5,
    rounds: int = 3,
    progress: Progress = silent,
) -> dict[str, Any]:
    """The report: pairs a second by number of processes, ``batch`` pairs in each."""
    before = machine(device)
    found: dict[int, list[float]] = {count: [] for count in counts}
    for number in range(rounds):
        for count in counts:
            found[count].append(_launch(count, size, device, batch, steps))
        progress("rounds", number + 1, rounds)
    first = counts[0]
    rows = []
    for count in counts:
        per_pair = [seconds / (steps * batch * count) for seconds in found[count]]
        base = [seconds / (steps * batch * first) for seconds in found[first]]
        spread = Spread(tuple(per_pair))
        over = ratios(base, per_pair)
        rows.append({
            "key": f"X-MDPT-{size}, {count} process{'es' if count > 1 else ''}",
            "processes": count,
            "seconds": spread.plain(),
            "images_per_second": 1 / spread.median,
            "gflop": None,
            "mfu": None,
            "over_first": None if count == first else over.plain(),
            "efficiency": over.median * first / count,
        })  # fmt: skip
    settings = {"size": size, "batch": batch, "steps": steps, "rounds": rounds}
    return report("scale", settings, rows, machine=before)


def _launch(count: int, size: str, device: torch.device, batch: int, steps: int) -> float:
    """Seconds of ``steps`` steps in ``count`` processes."""
    command = [sys.executable]
    if count > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command += ["-m", "xmdpt_cli.bench.scale", size, device.type, str(batch), str(steps)]
    threads = str(max(1, cores() // count))
    asked = {**os.environ, "OMP_NUM_THREADS": threads}
    done = subprocess.run(command, capture_output=True, text=True, env=asked, check=False)
    for line in done.stdout.splitlines():
        if line.startswith('{"seconds"'):
            return float(json.loads(line)["seconds"])
    raise XmdptError(
        f"{count} processes did not train: {(done.stderr.strip().splitlines() or ['?'])[-1]}",
        "measure fewer with --processes",
    )


def work(size: str, device: str, batch: int, steps: int) -> None:
    """One process of several: train, and rank 0 says how long it took."""
    dist = Distributed.init(device, "ddp")
    torch.manual_seed(0)
    config = TrainConfig(size=size, batch_size=batch)
    model = XMDPT.from_size(size).to(dist.device)
    inputs = moved(make_inputs(model, batch, seed=dist.rank)[0], dist.device)
    module = TrainStep(model, config, Schedule())
    module.autocast = dist.device.type == "cuda"
    step = parallelize(module, dist)
    (optimizer,) = make_optimizers(model, config)

    def train(times: int) -> None:
        for _ in range(times):
            optimizer.zero_grad(set_to_none=True)
            step(inputs).total.backward()
            optimizer.step()

    train(2)  # warm, and gradients laid out for sending
    dist.all_gather(None)
    seconds = clock(dist.device)(lambda: train(steps))
    slowest = max(dist.all_gather(seconds))
    if dist.is_main:
        print(json.dumps({"seconds": slowest}), flush=True)


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
