"""What must fit together before a run begins: recipe and dataset, model and weights, batch and
memory. What does not is named, with the command that helps."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError

from xmdpt_cli.encoders.identity import dataset_note, dino_name
from xmdpt_cli.errors import XmdptError, is_out_of_memory
from xmdpt_cli.files import human_bytes
from xmdpt_cli.model.checkpoint import (
    read_config,
    settings_of,
    shapes_in,
)
from xmdpt_cli.model.xmdpt import SIZES, XMDPT
from xmdpt_cli.utils.weights_files import check_state_dict, check_whole

# recipe and dataset


class Asks(Protocol):
    """What a recipe asks of its dataset (``TrainConfig`` does); 0 and "" ask nothing."""

    @property
    def resolution(self) -> int: ...
    @property
    def source_encoder(self) -> str: ...
    @property
    def pose_encoder(self) -> str: ...


def check_dataset(
    recipe: Asks,
    manifest: Mapping[str, Any],
    place: str | Path,
    *,
    tokens: str = "",
    channels: int = 0,
) -> list[str]:
    """XmdptError where the dataset at ``place`` is not what the recipe was made for.

    ``tokens``: "bf16" or "fp8", how the DINOv2 tokens must be stored; ``channels``: of the VAE's
    latents. Toy datasets train any recipe: what differs is returned, to be said; also that a
    dataset's tokens are not the published ones.
    """
    encoders = manifest["encoders"]
    if "vae" not in encoders or "scale" not in encoders["vae"]:
        raise XmdptError(
            f"{place} does not say which VAE made its latents, nor their scale",
            _prepare_command(recipe, manifest, tokens),
        )
    source = dino_name(encoders.get("source") or {}, recipe.source_encoder)
    pose = dino_name(encoders.get("pose") or {}, recipe.pose_encoder)
    asked = [
        ("pictures of", f"{recipe.resolution} px", f"{manifest['resolution']} px"),
        ("source tokens of", recipe.source_encoder, source),
        ("pose tokens of", recipe.pose_encoder, pose),
        ("tokens stored as", tokens, str(manifest.get("tokens", "bf16"))),
        ("latent channels:", f"{channels}", str(encoders["vae"].get("channels", channels))),
    ]
    given = [recipe.resolution, recipe.source_encoder, recipe.pose_encoder, tokens, channels]
    wrong = [
        f"{what} {wanted} (the dataset's: {has})"
        for (what, wanted, has), asks in zip(asked, given, strict=True)
        if asks and wanted != has
    ]
    if not wrong:
        note = dataset_note(manifest, place)
        return [] if note is None else [note]
    message = f"the recipe asks for {'; '.join(wrong)}"
    if manifest.get("toy"):
        return [f"{message}: accepted, as {place} was made with toy encoders"]
    raise XmdptError(f"{place} does not fit: {message}", _prepare_command(recipe, manifest, tokens))


def _prepare_command(recipe: Asks, manifest: Mapping[str, Any], tokens: str) -> str:
    """The command that makes a dataset for the recipe."""
    parts = [f"xmdpt prepare --root ROOT --out OUT --size {_size(recipe, manifest)}"]
    for option, name in (
        ("--dino-source", recipe.source_encoder),
        ("--dino-pose", recipe.pose_encoder),
    ):
        if name:
            parts.append(f"{option} {name if '/' in name else f'facebook/{name}'}")
    if tokens:
        parts.append(f"--tokens {tokens}")
    return "make the right one: " + " ".join(parts)


def _size(recipe: Asks, manifest: Mapping[str, Any]) -> int:
    return recipe.resolution or int(manifest["resolution"])


# model and weights


def check_model(model: XMDPT, path: str | Path) -> None:
    """XmdptError, setting by setting, if ``path`` holds the weights of another model.

    ``path`` is a model folder, a checkpoint's folder, or a safetensors file. Only its
    config.json, or the header of its weights, is read: milliseconds.
    """
    path = Path(path)
    weights = path if path.is_file() else path / "model.safetensors"
    wanted = model._hub_mixin_config
    assert isinstance(wanted, dict)
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
        named = "; ".join(f"{k} {v}, asked for {wanted[k]}" for k, v in differs.items())
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


# batch and memory


def largest_batch(try_step: Callable[[int], None], start: int) -> int:
    """The largest number of pairs, at most ``start``, for which ``try_step`` has memory.

    Halves until one fits, then closes in from both sides. What a try leaves is freed before the
    next. Other errors pass; XmdptError if not even one pair fits.
    """
    if start < 1:
        raise ValueError(f"start must be at least 1, not {start}")
    fits, too_many = 0, start + 1
    size = start
    while too_many - fits > 1:
        if _fits(try_step, size):
            fits = size
        else:
            too_many = size
        size = too_many // 2 if fits == 0 else (fits + too_many) // 2
    if fits == 0:
        raise XmdptError(
            "not even one pair fits into the memory there is",
            "choose a smaller --size, or a dataset of smaller pictures",
        )
    return fits


def _fits(try_step: Callable[[int], None], size: int) -> bool:
    try:
        try_step(size)
        return True
    except Exception as err:
        if not is_out_of_memory(err):
            raise
    free_memory()  # the error is gone by now, and with it the frames that held tensors
    return False


def free_memory() -> None:
    """Give back what nothing refers to any more, caches included."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def too_large(
    batch_size: int, largest: int, device: torch.device, world: int = 1, per_step: int = 1
) -> XmdptError:
    """The error for a batch that does not fit.

    ``batch_size``: pairs of an optimizer step, over ``world`` processes; ``largest``: pairs that
    one process has memory for at a time; ``per_step``: parts the batch was already taken in.
    """
    share = batch_size // world
    parts = next(n for n in range(1, share + 1) if share % n == 0 and share // n <= largest)
    at_once = share // per_step
    where = "of each process " if world > 1 else ""
    return XmdptError(
        f"a batch of {at_once} {where}does not fit in {memory_of(device)}; the largest that fits "
        f"is {largest}",
        f"--batch-size {batch_size} --accumulate {parts} makes the same steps in parts of "
        f"{share // parts}; or --batch-size {largest * world}",
    )


def memory_of(device: torch.device) -> str:
    """All the memory a device has, for people: "80.0 GB"."""
    if device.type == "cuda":
        return human_bytes(torch.cuda.get_device_properties(device).total_memory)
    return human_bytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
