"""Checks before a run: that a recipe fits its dataset, and weights fit their model. Errors name the
differences and a command that helps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError

from xmdpt_cli.encoders.identity import dino_name
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.model.checkpoint import read_config, settings_of, shapes_in
from xmdpt_cli.model.config import built_with
from xmdpt_cli.model.xmdpt import SIZES, XMDPT
from xmdpt_cli.utils.weights_files import check_state_dict, check_whole


class DatasetRequirements(Protocol):
    """What a recipe (``TrainConfig``) requires of its dataset; 0 and "" require nothing."""

    @property
    def resolution(self) -> int: ...
    @property
    def source_encoder(self) -> str: ...
    @property
    def pose_encoder(self) -> str: ...


def check_dataset(
    recipe: DatasetRequirements,
    manifest: Mapping[str, Any],
    place: str | Path,
    *,
    tokens: str = "",
    channels: int = 0,
) -> list[str]:
    """XmdptError if the dataset at ``place`` does not fit the recipe.

    ``tokens``: "bf16" or "fp8", how the DINOv2 tokens must be stored; ``channels``: of the VAE's
    latents. A toy dataset can train any recipe; the differences are then returned as notes for the
    user.
    """
    encoders = manifest["encoders"]
    if "vae" not in encoders or "scale" not in encoders["vae"]:
        raise XmdptError(
            f"{place} does not say which VAE made its latents, nor their scale",
            _prepare_command(recipe, manifest, tokens),
        )
    source = dino_name(encoders.get("source") or {}, recipe.source_encoder)
    pose = dino_name(encoders.get("pose") or {}, recipe.pose_encoder)
    requirements = [
        ("images of", f"{recipe.resolution} px", f"{manifest['resolution']} px"),
        ("source tokens of", recipe.source_encoder, source),
        ("pose tokens of", recipe.pose_encoder, pose),
        ("tokens stored as", tokens, str(manifest.get("tokens", "bf16"))),
        ("latent channels:", f"{channels}", str(encoders["vae"].get("channels", channels))),
    ]
    given = [recipe.resolution, recipe.source_encoder, recipe.pose_encoder, tokens, channels]
    wrong = [
        f"{what} {wanted} (the dataset's: {has})"
        for (what, wanted, has), required in zip(requirements, given, strict=True)
        if required and wanted != has
    ]
    if not wrong:
        return []
    message = f"the recipe requires {'; '.join(wrong)}"
    if manifest.get("toy"):
        return [f"{message}: accepted, as {place} was made with toy encoders"]
    raise XmdptError(f"{place} does not fit: {message}", _prepare_command(recipe, manifest, tokens))


def _prepare_command(recipe: DatasetRequirements, manifest: Mapping[str, Any], tokens: str) -> str:
    """A hint with the command that prepares a dataset for the recipe."""
    parts = [f"xmdpt prepare --root ROOT --out OUT --resolution {_size(recipe, manifest)}"]
    for option, name in (
        ("--dino-source", recipe.source_encoder),
        ("--dino-pose", recipe.pose_encoder),
    ):
        if name:
            parts.append(f"{option} {name if '/' in name else f'facebook/{name}'}")
    if tokens:
        parts.append(f"--tokens {tokens}")
    return "make the right one: " + " ".join(parts)


def _size(recipe: DatasetRequirements, manifest: Mapping[str, Any]) -> int:
    return recipe.resolution or int(manifest["resolution"])


def check_model(model: XMDPT, path: str | Path) -> None:
    """XmdptError, setting by setting, if ``path`` holds the weights of another model.

    ``path`` is a model folder, a checkpoint's folder, or a safetensors file. Only its
    config.json, or the header of its weights, is read: milliseconds.
    """
    path = Path(path)
    weights = path if path.is_file() else path / "model.safetensors"
    wanted = built_with(model)
    check_whole(weights)
    try:
        shapes = shapes_in(weights)
        sidecar = weights.with_name("config.json")
        has = read_config(weights.parent) if sidecar.is_file() else settings_of(shapes)
    except (OSError, SafetensorError) as err:
        raise XmdptError(f"cannot read {weights}: {err}", "copy it again") from None
    differs = {k: v for k, v in has.items() if k in wanted and wanted[k] != v}
    differs.pop("mask_ratio", None)  # no weight follows from it
    if differs:
        named = "; ".join(f"{k} {v}, expected {wanted[k]}" for k, v in differs.items())
        raise XmdptError(
            f"{path} holds another model{_called(has)}: {named}",
            "give the settings it was trained with, or the folder of the model you mean",
        )
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    check_state_dict(
        shapes,
        own,
        f"{path} holds another model: it",
        "give the settings it was trained with, or the folder of the model you mean",
    )


def _called(settings: Mapping[str, Any]) -> str:
    built = tuple(settings.get(name) for name in ("depth", "width", "heads"))
    return next((f" (size {name})" for name, size in SIZES.items() if size == built), "")
