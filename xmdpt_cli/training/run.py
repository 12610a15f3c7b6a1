"""A run's folder (DESIGN: "What a run is"): its identity, and the model it exports."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from xmdpt_cli import config as configuration
from xmdpt_cli.data.loader import PairDataset
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import write_text
from xmdpt_cli.model import XMDPT
from xmdpt_cli.model.folder import save_model
from xmdpt_cli.run_places import without_places, write_places
from xmdpt_cli.training.train_config import TrainConfig

# What may differ between a run and its continuation: how far, how often, how many are kept,
# how it is watched, and on how many devices the same batches are worked through.
_FREE = {"steps", "checkpoint_every", "log_every", "keep_checkpoints", "keep_every"}
_FREE |= {"accumulate", "sharding", "validate_every", "validation_pairs", "track"}
_FREE |= {"sampling_steps", "sampling_solver", "guidance", "power"}  # only travel with the model
#: What ``--force`` may change: the weights still fit, and the pairs keep their order.
FORCEABLE = {"learning_rate", "weight_decay", "ema", "ema_warmup", "guidance_drop", "mask_ratio"}
FORCEABLE |= {"mask_span", "loss_weighting", "align_weight", "timestep_power", "online"}
FORCEABLE |= {"precision", "compile", "steps", "resolution", "source_encoder", "pose_encoder"}


def begin_run(out: Path, config: TrainConfig, dataset: PairDataset, force: bool = False) -> None:
    """Write config.toml and run.json, or check that ``out`` holds this very run.

    With ``force`` what is ``FORCEABLE`` may differ: run.json remembers what changed, and where.
    A run that has saved nothing yet may become another one.
    """
    identity: dict[str, Any] = {
        "data": [shard["sha256"] for shard in dataset.manifest["shards"]],
        "config": {k: v for k, v in dataclasses.asdict(config).items() if k not in _FREE},
    }
    if config.decay == "cosine":  # the schedule of the learning rate follows from the length
        identity["config"]["steps"] = config.steps
    known = out / "run.json"
    kept = known.is_file() and (out / "checkpoints" / "latest").is_file()
    if kept:
        before = json.loads(known.read_text())
        was, now = before["config"], identity["config"]
        differs = {k: f"{was.get(k)} -> {v}" for k, v in now.items() if was.get(k) != v}
        if before["data"] != identity["data"]:
            differs["data"] = "another prepared dataset"
        identity["forced"] = before.get("forced", [])
        if differs:
            identity["forced"].append(_forced(out, differs, force))
            write_text(known, json.dumps(identity, indent=2))
    elif not known.is_file() and out.exists() and any(p.name != ".lock" for p in out.iterdir()):
        raise XmdptError(f"{out} is not empty and holds no run", "choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "config.toml", configuration.dump("train", config))
    if not kept:
        write_text(known, json.dumps(identity, indent=2))


def _forced(out: Path, differs: dict[str, str], force: bool) -> dict[str, str]:
    """The note on a forced change; XmdptError if it is not forced or may not be."""
    named = "; ".join(f"{name}: {change}" for name, change in differs.items())
    firm = sorted(set(differs) - FORCEABLE)
    if firm or not force:
        hint = "choose another --out, or give the same settings to go on"
        if not firm:
            hint += ", or --force to go on with these"
        elif force:
            hint = f"--force cannot change {', '.join(firm)}: choose another --out"
        raise XmdptError(f"{out} holds another run; what differs: {named}", hint)
    return {"from": (out / "checkpoints" / "latest").read_text(), **differs}


def known_batch(out: Path) -> int:
    """The batch size that the run in ``out`` began with; 0 if there is no run."""
    known = out / "run.json"
    return int(json.loads(known.read_text())["config"]["batch_size"]) if known.is_file() else 0


def export(
    folder: Path, model: XMDPT, config: TrainConfig, dataset: PairDataset, steps: int
) -> None:
    """Write the EMA model as a model folder; what is this machine's alone stays in the run."""
    manifest = dataset.manifest
    facts: dict[str, Any] = {
        "schedule": config.schedule,
        "prediction": config.prediction,
        "sampling": {
            "steps": config.sampling_steps,
            "solver": config.sampling_solver,
            "guidance": config.guidance,
            "power": config.power,
        },
        "resolution": manifest["resolution"],
        "encoders": manifest["encoders"],
        "toy": bool(manifest["toy"]),
        "trained_steps": steps,
        "trained_on": manifest["counts"]["train"],
    }
    if dataset.store.folder is not None:  # toy networks lie there, and nowhere else
        facts["data"] = str(dataset.store.folder.resolve())
    write_places(folder.parent, facts)
    save_model(folder, model, without_places(facts))
