"""Configuration: frozen dataclasses, strict TOML, and one rule of precedence.

flag > environment (``XMDPT_TRAIN_STEPS=...``) > ``--config FILE.toml`` > ``--preset`` > default.
A TOML file has one table a command (``[train]``); a key that is not a field is an error by name.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from xmdpt_cli.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


@dataclass(frozen=True)
class TrainConfig:
    """One training run. The defaults are the paper's recipe (sec. 4.1) for size S at 256 px."""

    size: str = "S"  # tiny, S, B, L, XL
    resolution: int = 0  # of the dataset, pixels; 0: whatever it has
    source_encoder: str = ""  # e.g. "dinov2-giant"; "": whatever the dataset was prepared with
    pose_encoder: str = ""  # e.g. "dinov2-base"
    conditioning: str = "vector"  # "vector" (the paper) or "tokens" (our extension)
    condition_parts: str = "local+global+pose"  # which of vL, vG, vP (paper Table 2e)
    aggregation: str = "add"  # of these: "add" (published), "mlp", "concat" (1x1 convolution)
    predictor: str = "self-cross"  # MIPNet; "self" (MDT), "cross", "cross-self", "none"
    mask_ratio: float = 0.3  # share of tokens hidden in the masked pass
    mask_span: float = 0.0  # above 0: drawn per step from [ratio, ratio + span] (MDTv2: 0.2)
    backbone: str = "plain"  # or "mdtv2": long skips (MDTv2's macro structure)
    decode_layers: int = 0  # blocks behind MIPNet; 0: 2, of mdtv2 6 (S) or 4
    token_source: str = "latents"  # of conditioning "tokens": "dino", "both", "none"
    token_source_by: str = "keys"  # read beside the own keys; "cross"-attention; "sequence"
    token_pose: str = "add"  # on the noisy tokens; "concat"; "keys"; "none"
    vector: bool = True  # False: conditioning "tokens" without CANet
    prediction: str = "epsilon"  # "epsilon" (the paper) or "v"
    schedule: str = "linear"  # "linear" (the paper) or "cosine"
    loss_weighting: str = "none"  # of the squared error; or "min-snr" (limit 5)
    align_weight: float = 0.0  # REPA: hidden tokens towards the target's DINOv2 tokens (0.5)
    align_block: int = 4  # behind which block
    steps: int = 300_000
    batch_size: int = 32  # pairs of an optimizer step, over all processes
    accumulate: int = 1  # parts a process takes its share in: for less memory, same result
    optimizer: str = "adamw"  # "adamw" (the paper), "adan" (MDTv2), "muon"
    learning_rate: float = 1e-4
    warmup_steps: int = 0  # linear from 0
    decay: str = "none"  # "none" (the paper) or "cosine" to 0 at the last step
    weight_decay: float = 0.0
    ema: float = 0.9999
    ema_warmup: bool = False  # min(ema, (1 + step) / (10 + step)): for runs of few steps
    timestep_power: float = 1.0  # t = T u^power, u uniform: below 1 draws noisy steps more often
    guidance_drop: float = 0.1
    swap: bool = True  # source and target change places half of the time
    flip: bool = True  # both mirrored half of the time
    online: bool = False  # features from the pictures, fresh crops (published); not from the cache
    precision: str = "auto"  # "fp32", "bf16" (autocast), "auto": bf16 on a GPU that has it
    compile: str = "auto"  # "on", "off", "auto": on a GPU
    sharding: str = "auto"  # of several processes: "ddp", "fsdp", "auto": fsdp for L and XL
    seed: int = 0
    checkpoint_every: int = 5000
    keep_checkpoints: int = 2  # the newest
    keep_every: int = 0  # and those of every so many steps
    log_every: int = 50
    validate_every: int = 0  # steps between validations: samples, losses, similarity; 0: none
    validation_pairs: int = 8
    track: str = "none"  # "wandb" or "trackio", beside TensorBoard
    sampling_steps: int = 50  # defaults that travel with the model: steps, guidance, power
    guidance: float = 2.0
    power: float = 0.01

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            _one_of(self, name, allowed)
        _at_least(self, 1, "steps", "batch_size", "accumulate", "checkpoint_every", "log_every")
        _at_least(self, 1, "keep_checkpoints", "sampling_steps", "validation_pairs")
        _at_least(self, 0, "warmup_steps", "weight_decay", "seed", "keep_every", "validate_every")
        _at_least(self, 0, "mask_span", "align_weight", "resolution", "decode_layers")
        for name in ("learning_rate", "timestep_power", "power"):
            value = getattr(self, name)
            if not value > 0:
                raise ConfigError(f"{name} must be positive, not {value}")
        for name, value in (("ema", self.ema), ("guidance_drop", self.guidance_drop)):
            if not 0 <= value < 1:
                raise ConfigError(f"{name} lies in [0, 1), not {value}")
        if not self.mask_ratio + self.mask_span < 1:
            raise ConfigError("mask_ratio + mask_span must stay below 1")


_CHOICES: dict[str, tuple[str, ...]] = {
    "conditioning": ("vector", "tokens"),
    "aggregation": ("add", "mlp", "concat"),
    "predictor": ("none", "self", "cross", "cross-self", "self-cross"),
    "backbone": ("plain", "mdtv2"),
    "token_source": ("latents", "dino", "both", "none"),
    "token_source_by": ("keys", "cross", "sequence"),
    "token_pose": ("add", "concat", "keys", "none"),
    "prediction": ("epsilon", "v"),
    "schedule": ("linear", "cosine"),
    "loss_weighting": ("none", "min-snr"),
    "decay": ("none", "cosine"),
    "optimizer": ("adamw", "adan", "muon"),
    "precision": ("fp32", "bf16", "auto"),
    "compile": ("on", "off", "auto"),
    "sharding": ("ddp", "fsdp", "auto"),
    "track": ("none", "wandb", "trackio"),
}


def _one_of(config: Any, name: str, allowed: tuple[str, ...]) -> None:
    value = getattr(config, name)
    if value not in allowed:
        raise ConfigError(f"{name} is one of {', '.join(allowed)}, not {value!r}")


def _at_least(config: Any, least: float, *names: str) -> None:
    for name in names:
        if getattr(config, name) < least:
            raise ConfigError(f"{name} must be at least {least}, not {getattr(config, name)}")


def resolve(
    kind: type[T],
    section: str,
    flags: Mapping[str, Any],
    *,
    file: Path | None = None,
    preset: str | None = None,
) -> T:
    """Build ``kind`` from every layer; ``flags`` that are None were not given."""
    values: dict[str, Any] = {}
    if preset is not None:
        values.update(_section(kind, section, preset_text(preset), f"preset {preset}"))
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as err:
            raise ConfigError(f"cannot read {file}: {err}") from None
        values.update(_section(kind, section, text, str(file)))
    values.update(_environment(kind, section))
    given = {k: v for k, v in flags.items() if v is not None}
    values.update({k: _typed(kind, k, v, f"--{k.replace('_', '-')}") for k, v in given.items()})
    return kind(**values)


def dump(section: str, config: Any) -> str:
    """The resolved configuration as TOML, readable by ``resolve``."""
    import tomli_w

    return tomli_w.dumps({section: dataclasses.asdict(config)})


def presets() -> list[str]:
    """Names of the recipes that ship with the package, e.g. ``paper/S-256``."""
    root = resources.files("xmdpt_cli") / "presets"
    return sorted(
        f"{folder.name}/{file.name.removesuffix('.toml')}"
        for folder in root.iterdir()
        if folder.is_dir()
        for file in folder.iterdir()
        if file.name.endswith(".toml")
    )


def preset_text(name: str) -> str:
    if name not in presets():
        raise ConfigError(f"no such preset: {name!r}", f"choose one of {', '.join(presets())}")
    return (resources.files("xmdpt_cli") / "presets" / f"{name}.toml").read_text(encoding="utf-8")


def _section(kind: type[Any], section: str, text: str, where: str) -> dict[str, Any]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        raise ConfigError(f"{where} is not valid TOML: {err}") from None
    unknown = sorted(set(document) - {section})
    if unknown:
        raise ConfigError(
            f"{where}: unknown table {unknown[0]!r}", f"this command reads [{section}]"
        )
    table = document.get(section, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: {section!r} must be a table", f"write [{section}]")
    return {k: _typed(kind, k, v, f"{where}, [{section}] {k}") for k, v in table.items()}


def _environment(kind: type[Any], section: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        name = f"XMDPT_{section}_{field.name}".upper().replace("-", "_")
        if name in os.environ:
            out[field.name] = _parsed(kind, field.name, os.environ[name], name)
    return out


def _parsed(kind: type[Any], name: str, text: str, where: str) -> Any:
    """A value from a string, by the field's type."""
    try:
        if _type(kind, name) == "bool":
            return {"1": True, "true": True, "0": False, "false": False}[text.lower()]
        convert = {"int": int, "float": float, "str": str}[_type(kind, name)]
        return convert(text)
    except (KeyError, ValueError):
        raise ConfigError(f"{where} must be {_type(kind, name)}, not {text!r}") from None


def _typed(kind: type[Any], name: str, value: Any, where: str) -> Any:
    if name not in {f.name for f in dataclasses.fields(kind)}:
        names = ", ".join(f.name for f in dataclasses.fields(kind))
        raise ConfigError(f"{where}: unknown key {name!r}", f"known keys: {names}")
    wanted = _type(kind, name)
    if wanted == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value).__name__ != wanted:
        raise ConfigError(f"{where} must be {wanted}, not {value!r}")
    return value


def _type(kind: type[Any], name: str) -> str:
    """A field's type as written: annotations are strings here."""
    return next(str(f.type) for f in dataclasses.fields(kind) if f.name == name)
