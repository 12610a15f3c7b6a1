"""A run's folder: its identity (run.json), its settings (config.toml), the model it exports.

A run also contains metrics.jsonl and TensorBoard events (``logger``), samples/ (``validation``) and
checkpoints/ (``checkpoint``).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict

from xmdpt_cli import config as configuration
from xmdpt_cli.encoders.places import without_places, write_places
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import content, write_text, writing
from xmdpt_cli.model import XMDPT
from xmdpt_cli.model.checkpoint import InitialModel, save_model
from xmdpt_cli.training import checkpoint
from xmdpt_cli.training.initial_weights import (
    InitialWeights,
    load_initial_weights,
    recorded_path,
)
from xmdpt_cli.training.run_config import RunConfig
from xmdpt_cli.training.task import Task
from xmdpt_cli.utils import records

# Settings that may differ when a run is resumed: how long it is, how often and how many checkpoints
# are written, logging and validation, and on how many devices the same batches are computed.
_FREE = {"steps", "checkpoint_every", "log_every", "keep_checkpoints", "keep_every"}
_FREE |= {"accumulate", "sharding", "validate_every", "validation_pairs", "track"}
_FREE |= {"sampling_steps", "sampling_solver", "guidance", "power"}  # only travel with the model
#: Settings that ``--force`` may change: the weights still fit, and the pairs keep their order.
FORCEABLE = {"learning_rate", "weight_decay", "ema", "ema_warmup", "cond_drop_prob", "mask_ratio"}
FORCEABLE |= {"mask_span", "loss_weighting", "repa_weight", "timestep_power", "online"}
FORCEABLE |= {"masked_noise", "swap_by", "max_grad_norm"}
FORCEABLE |= {"timestep_sampling", "logit_mean", "logit_std"}
FORCEABLE |= {"contrastive_weight", "model_guidance", "attention_flow_weight"}
FORCEABLE |= {"attention_flow_joints", "attention_flow_layers"}
FORCEABLE |= {"repa_norm", "repa_until"}
FORCEABLE |= {"precision", "compile", "steps", "accumulate"}
FORCEABLE |= {"resolution", "source_encoder", "pose_encoder"}
#: Settings whose default is not what versions without them did.
_CHANGED = {"masked_noise", "swap_by"}

RUN = "run.json"
#: The kinds of trainings, by the entry of run.json with their settings.
KINDS = {"config": "run", "settings": "VAE training"}
#: Files that a process killed while starting a run, or a full disk, leaves in the folder.
_UNFINISHED = {".lock", "config.toml", "config.toml.part", "run.json.part"}


class RunRecord(TypedDict):
    """run.json: the dataset's shards by their sha256, the settings, and what --force changed.

    ``teacher``: the identity of the model that a run distils (``Sampler.identity``), which was in
    ``teacher_folder``. ``initial``: the model whose weights a run started from,
    which was given as ``init_from``.
    """

    data: list[str]
    config: _Settings
    teacher: NotRequired[str]
    teacher_folder: NotRequired[str]
    initial: NotRequired[InitialModel]
    init_from: NotRequired[str]
    forced: NotRequired[list[dict[str, str]]]


class _Settings(TypedDict):
    batch_size: int


def check_run(out: Path, task: Task, force: bool = False) -> None:
    """XmdptError where ``start_run`` would raise one; nothing is written."""
    check_content(out, "run")
    if not task.config.batch_size:  # auto: an existing run keeps its own
        run = read_run(out)
        task = task if run is None else task.replace(batch_size=run["config"]["batch_size"])
    _identity_of(out, task, force)


def start_run(out: Path, task: Task, force: bool = False) -> None:
    """Write config.toml and run.json, or check that ``out`` holds the same run.

    With ``force``, settings in ``FORCEABLE`` may differ; run.json records what changed and at which
    checkpoint. A run without a checkpoint may become another run.
    """
    check_content(out, "run")
    identity, replace = _identity_of(out, task, force)
    toml = configuration.dump(task.command, task.config)
    open_folder(out, identity, toml, replace=replace)


def _identity_of(out: Path, task: Task, force: bool) -> tuple[dict[str, Any], bool]:
    """What run.json should hold for a task in ``out``, and whether an existing one is replaced.
    XmdptError if ``out`` holds another run."""
    config, manifest = task.config, task.dataset.manifest
    identity: dict[str, Any] = {
        "data": [shard["sha256"] for shard in manifest["shards"]],
        "config": {k: v for k, v in dataclasses.asdict(config).items() if k not in _FREE},
        **task.identity(),
    }
    if config.fixed_length:
        identity["config"]["steps"] = config.steps
    if config.least_micro_batch > 1:  # the loss compares the pairs of a micro batch
        identity["config"]["accumulate"] = config.accumulate
    before = read_run(out) if (out / "checkpoints" / "latest").is_file() else None
    differs: dict[str, str] = {}
    if before is not None:
        settings = {**_later_settings(config), **before["config"]}
        differs = differences(settings, identity["config"])
        if before["data"] != identity["data"]:
            differs["data"] = "another prepared dataset"
        if before.get("teacher") != identity.get("teacher"):
            differs["teacher"] = "another model"
        was, now = before.get("initial"), identity.get("initial")
        if (was and was["sha256"]) != (now and now["sha256"]):
            differs["init_from"] = f"{_start(was)} -> {_start(now)}"
        if ("teacher" in before) != ("teacher" in identity):
            other = "distill" if "teacher" in before else "train"
            differs = {"command": f"xmdpt {other} -> xmdpt {task.command}"}  # not every setting
        identity["forced"] = before.get("forced", [])
        if differs:
            fixed = set(differs) - FORCEABLE
            weights = settings.get("repa_weight"), identity["config"].get("repa_weight")
            if "repa_weight" in differs and not all(weights):
                fixed.add("repa_weight")  # without REPA the model has no projector
            identity["forced"].append(_forced(out, differs, fixed, force))
            latest = checkpoint.latest(out / "checkpoints")
            if latest is not None and checkpoint.step_of(latest) >= config.steps:
                raise XmdptError(
                    f"no step is left that could use other settings: {out} is at step "
                    f"{checkpoint.step_of(latest)} of {config.steps}",
                    "give a larger --steps, or leave the settings as they were",
                )
    return identity, before is None or bool(differs)


def _start(initial: InitialModel | None) -> str:
    return "random weights" if initial is None else f"{initial['name']} ({initial['sha256'][:12]})"


def _later_settings(config: RunConfig) -> dict[str, Any]:
    """The settings that a run of an earlier version lacks: their default is what it did."""
    fields = dataclasses.fields(config)
    return {field.name: field.default for field in fields if field.name not in _CHANGED}


def open_folder(
    out: Path, identity: Mapping[str, Any], toml: str, *, replace: bool = False
) -> None:
    """Make ``out`` the folder of a training: write its identity (run.json), then config.toml.

    An existing run.json is kept unless ``replace``. Call ``check_content`` first.
    """
    record = out / RUN
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        if replace or not record.is_file():  # first: it marks the folder as a training's
            write_text(record, json.dumps(identity, indent=2))
        write_text(out / "config.toml", toml)


def check_content(out: Path, kind: str) -> None:
    """XmdptError if ``out`` has other content than a training of this ``kind`` (``KINDS``)."""
    record = records.read_if_there(dict[str, Any], out / RUN)
    if record is None and set(content(out)) - _UNFINISHED:
        raise XmdptError(f"{out} is not empty and holds no {kind}", "choose another --out")
    held = next((name for key, name in KINDS.items() if record and key in record), kind)
    if held != kind:
        raise XmdptError(f"{out} holds a {held}, not a {kind}", "choose another --out")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Settings of ``now`` that differ from ``before``: name -> "old -> new"."""
    return {k: f"{before.get(k)} -> {v}" for k, v in now.items() if before.get(k) != v}


def other_run(out: Path, kind: str, differs: Mapping[str, str], hint: str) -> XmdptError:
    """The error for a folder that holds another ``kind`` of training than the requested one."""
    named = "; ".join(f"{name}: {change}" for name, change in differs.items())
    return XmdptError(f"{out} holds another {kind}; what differs: {named}", hint)


def _forced(out: Path, differs: dict[str, str], fixed: set[str], force: bool) -> dict[str, str]:
    """The record of a forced change; XmdptError if it is not forced, or some are ``fixed``."""
    if fixed or not force:
        hint = "choose another --out, or give the same settings to resume"
        if not fixed:
            hint += ", or --force to resume with these"
        elif force:
            hint = f"--force cannot change {', '.join(sorted(fixed))}: choose another --out"
        raise other_run(out, "run", differs, hint)
    return {"from": (out / "checkpoints" / "latest").read_text(errors="replace"), **differs}


def read_run(out: Path) -> RunRecord | None:
    """The run.json of the run in ``out``; None if there is no run."""
    return records.read_if_there(RunRecord, out / RUN)


def find_initial_weights(source: str | Path | None, out: Path) -> InitialWeights | None:
    """The model that the run in ``out`` starts from: ``source``, as ``load_initial_weights`` takes
    it, else the one that the run has been started with; None: random weights. XmdptError if ``out``
    holds something else than a run.

    A run with a checkpoint does not read its start, which may be gone or trained further.
    """
    check_content(out, "run")  # its errors say more than those of the record
    run = read_run(out)
    started = None
    if run is not None and "initial" in run and "init_from" in run:
        started = InitialWeights(run["initial"], run["init_from"])
    resumes = checkpoint.latest(out / "checkpoints") is not None
    if source is None:
        return started if started is None or resumes else load_initial_weights(started.source)
    if started is not None and resumes and started.source in (str(source), recorded_path(source)):
        return started
    return load_initial_weights(source)


def export_model(folder: Path, model: XMDPT, task: Task, steps: int) -> None:
    """Write the EMA model as a model folder; paths of this machine stay in the run folder."""
    dataset, manifest = task.dataset, task.dataset.manifest
    metadata: dict[str, Any] = {
        **task.metadata(),
        "resolution": manifest["resolution"],
        "encoders": manifest["encoders"],
        "toy": bool(manifest["toy"]),
        "trained_steps": steps,
        "trained_on": manifest["counts"]["train"],
    }
    # toy encoders are found only there; the URL is without its password
    local = dataset.store.folder
    metadata["data"] = dataset.store.url if local is None else str(local.resolve())
    write_places(folder.parent, metadata)
    save_model(folder, model, without_places(metadata))
