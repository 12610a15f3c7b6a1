"""A run's folder (DESIGN: "What a run is"): its identity, its log and the model it exports."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmdpt_cli import config as configuration
from xmdpt_cli.data.loader import PairDataset
from xmdpt_cli.diffusion import Losses
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import write_text
from xmdpt_cli.model import XMDPT
from xmdpt_cli.training.team import ALONE, Team
from xmdpt_cli.training.train_config import TrainConfig

# What may differ between a run and its continuation: how far, how often, how many are kept, and
# on how many devices the same batches are worked through.
_FREE = {"steps", "checkpoint_every", "log_every", "keep_checkpoints", "keep_every"}
_FREE |= {"accumulate", "sharding"}


def begin_run(out: Path, config: TrainConfig, dataset: PairDataset) -> None:
    """Write config.toml and run.json, or check that ``out`` holds this very run."""
    identity: dict[str, Any] = {
        "data": [shard["sha256"] for shard in dataset.manifest["shards"]],
        "config": {k: v for k, v in dataclasses.asdict(config).items() if k not in _FREE},
    }
    if config.decay == "cosine":  # the schedule of the learning rate follows from the length
        identity["config"]["steps"] = config.steps
    known = out / "run.json"
    if known.is_file():
        before = json.loads(known.read_text())
        was, now = before["config"], identity["config"]
        differs = [f"{k}: {was.get(k)} -> {v}" for k, v in now.items() if was.get(k) != v]
        if before["data"] != identity["data"]:
            differs.append("the prepared dataset")
        if differs:
            raise XmdptError(
                f"{out} holds another run; what differs: {'; '.join(differs)}",
                "choose another --out, or give the same settings to go on",
            )
    elif out.exists() and any(p.name != ".lock" for p in out.iterdir()):
        raise XmdptError(f"{out} is not empty and holds no run", "choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "config.toml", configuration.dump("train", config))
    if not known.is_file():
        write_text(known, json.dumps(identity, indent=2))


def export(
    folder: Path, model: XMDPT, config: TrainConfig, manifest: dict[str, Any], steps: int
) -> None:
    """Write the EMA model as a folder that from_pretrained reads, with what sampling must know."""
    model.save_pretrained(folder)
    facts: dict[str, Any] = {
        "format": "xmdpt-model",
        "version": 1,
        "schedule": config.schedule,
        "prediction": config.prediction,
        "sampling": {
            "steps": config.sampling_steps,
            "guidance": config.guidance,
            "power": config.power,
        },
        "resolution": manifest["resolution"],
        "encoders": manifest["encoders"],
        "toy": bool(manifest["toy"]),
        "trained_steps": steps,
    }
    write_text(folder / "xmdpt.json", json.dumps(facts, indent=2))


class Log:
    """metrics.jsonl and TensorBoard events: means over the steps since the last line, and over
    the ranks; rank 0 writes."""

    def __init__(self, out: Path, done: int, every: int, team: Team = ALONE) -> None:
        self.path, self.every, self.team, self.last = out / "metrics.jsonl", every, team, 0.0
        self.rows: list[dict[str, Tensor]] = []
        self.began = time.perf_counter()
        self.events: Any = None
        if team.first:
            from torch.utils.tensorboard import SummaryWriter

            if self.path.is_file():  # steps after the checkpoint will be written again
                lines = self.path.read_text(encoding="utf-8").splitlines()
                write_text(
                    self.path, "".join(line + "\n" for line in lines if _is_done(line, done))
                )
            self.events = SummaryWriter(str(out), purge_step=done + 1)

    def add(self, losses: Losses, step: int) -> None:
        """Take in a step's losses; ``last`` is their mean when a line was written."""
        terms = {"loss": losses.total, "mse": losses.mse, "vb": losses.vb}
        if losses.masked_mse is not None and losses.masked_vb is not None:
            terms |= {"masked_mse": losses.masked_mse, "masked_vb": losses.masked_vb}
        self.rows.append({k: v.detach().mean() for k, v in terms.items()})
        if step % self.every and step != 1:
            return
        found = torch.stack([torch.stack([r[k] for r in self.rows]).mean() for k in terms])
        means = dict(zip(terms, self.team.mean(found).tolist(), strict=True))
        self.last = means["loss"]
        now = time.perf_counter()
        means["steps_per_second"] = len(self.rows) / (now - self.began)
        self.rows.clear()
        self.began = now
        if not self.team.first:
            return
        finite = {k: v if math.isfinite(v) else None for k, v in means.items()}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **finite}) + "\n")
        for name, value in means.items():
            self.events.add_scalar(name, value, step)

    def close(self) -> None:
        if self.events is not None:
            self.events.close()


def _is_done(line: str, done: int) -> bool:
    """Whether a line of the log is whole (a full disk cuts one short) and at most ``done``."""
    try:
        return bool(json.loads(line)["step"] <= done)
    except ValueError:
        return False
