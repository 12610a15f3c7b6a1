"""The folder of a VAE training, which in the end is a diffusers VAE.

``run.json`` is the training's identity, ``config.toml`` its settings, ``metrics.jsonl`` its
metrics, ``checkpoints/`` its state until it is finished. Then the VAE's own files follow,
``config.json`` last, and ``xmdpt_training.json``, the record of a finished training.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from typing_extensions import NotRequired, TypedDict

from xmdpt_cli import config as configuration
from xmdpt_cli.encoders.decoder import Decoder
from xmdpt_cli.encoders.weights import Origin, mark_toy, state_sha256
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import apply_umask, unfinished, write_text, writing
from xmdpt_cli.training.run_folder import (
    KINDS,
    RUN,
    check_content,
    differences,
    open_folder,
    other_run,
)
from xmdpt_cli.utils import records
from xmdpt_cli.vae_training.config import VaeConfig

RECORD, CHECKPOINTS = "xmdpt_training.json", "checkpoints"
_OLD_STATE = "state.safetensors"  # of an earlier format
_PART = ".vae.part"
_WEIGHTS = "diffusion_pytorch_model*.safetensors"
_SECTION = "finetune_vae"
_KIND = KINDS["settings"]
# What may differ between a training and its continuation. Epochs follow from the steps.
_FREE = {"checkpoint_every", "log_every", "epochs"}
_OF_TINY = {"decoder", "full_share"}  # in the identity of a tiny decoder only
#: Parts of the identity beside the settings, as messages name them.
_PARTS = {
    "images": "the images",
    "start": "the VAE it starts from",
    "full_decoder": "the VAE that it imitates",
    "lpips_trunk": "the weights of LPIPS",
}


@dataclasses.dataclass(frozen=True)
class VAEStats:
    """Statistics of a training. PSNR in dB on the held-out images; None without any."""

    steps: int
    images: int
    decoder_only: bool
    loss_first: float
    loss_last: float
    psnr_before: float | None
    psnr: float | None
    scaling_factor: float
    seconds: float  # of the call that finished it


class _Started(TypedDict):
    """run.json, see ``identity``."""

    settings: dict[str, Any]
    images: NotRequired[Any]
    start: NotRequired[str]
    full_decoder: NotRequired[str]
    lpips_trunk: NotRequired[str]


class Encoder(TypedDict):
    """sha256 of the encoder, before and after."""

    before: str
    after: str


class Finished(TypedDict):
    """xmdpt_training.json."""

    stats: VAEStats
    encoder: Encoder
    toy: NotRequired[bool]
    sha256: NotRequired[str]


def encoder_sha256(vae: Decoder) -> str:
    """sha256 of the names and weights that determine latents: encoder and quant_conv."""
    parts = {"encoder": vae.net.encoder, "quant_conv": getattr(vae.net, "quant_conv", None)}
    return state_sha256(nn.ModuleDict({k: v for k, v in parts.items() if v is not None}))


def identity(
    config: VaeConfig, data: Any, decoder: Decoder, trunk: str, full: Decoder | None = None
) -> dict[str, Any]:
    """The identity of a training. ``data`` identifies the images; ``trunk``: the LPIPS weights;
    ``full``: the VAE that a tiny decoder imitates."""
    free = _FREE if config.tiny else _FREE | _OF_TINY
    more = {} if full is None else {"full_decoder": state_sha256(full.net)}
    return {
        "settings": {k: v for k, v in dataclasses.asdict(config).items() if k not in free},
        "images": data,
        "start": state_sha256(decoder.net),
        "encoder": encoder_sha256(decoder),
        **more,
        "lpips_trunk": trunk,
    }


def start_training(out: Path, this: dict[str, Any], config: VaeConfig) -> None:
    """Make ``out`` the folder of this training or recognise it; XmdptError for anything else."""
    check_training(out, this)
    open_folder(out, this, configuration.dump(_SECTION, config))


def check_training(out: Path, this: Mapping[str, Any]) -> None:
    """XmdptError where ``start_training`` would raise one; nothing is written."""
    if (out / _OLD_STATE).is_file():
        raise XmdptError(
            f"{out} holds a VAE training of an earlier version ({_OLD_STATE})",
            "choose another --out",
        )
    check_content(out, _KIND)
    before = records.read_if_there(_Started, out / RUN)
    if before is not None:
        differs = differences(before["settings"], this["settings"])
        for key, name in _PARTS.items():
            if before.get(key) != this.get(key):
                differs[name] = "not the same"
        if differs:
            hint = "choose another --out, or give the same settings to resume"
            raise other_run(out, _KIND, differs, hint)


def finished(out: Path) -> dict[str, Any] | None:
    """The record of a finished training, else None. Call ``start_training`` first."""
    record: dict[str, Any] | None = records.read_if_there(Finished, out / RECORD)
    return record


def stats_of(record: dict[str, Any]) -> VAEStats:
    """The statistics in the record of a finished training."""
    return VAEStats(**{f.name: record["stats"][f.name] for f in dataclasses.fields(VAEStats)})


def write_part(out: Path, vae: Decoder, frozen: str | None = None) -> str:
    """Write the VAE to a hidden folder in ``out`` and read it back; returns the encoder's sha256.

    ``frozen``: the sha256 of an encoder that was not trained. Raises XmdptError, and removes the
    folder, if the files differ from the VAE in memory or if the frozen encoder has changed.
    """
    part = out / _PART
    with writing(part), unfinished(part):
        vae.write(part)
        apply_umask(part)
        mark_toy(part, vae.origin)
    written = type(vae).load(part)
    if state_sha256(written.net) != state_sha256(vae.net):
        shutil.rmtree(part, ignore_errors=True)
        raise XmdptError(
            f"the VAE written to {out} does not read back as it was written",
            "check the disk; the same command then resumes from the last checkpoint",
        )
    after = encoder_sha256(written)
    if frozen not in (None, after):
        shutil.rmtree(part, ignore_errors=True)
        raise XmdptError(
            f"the encoder has changed (sha256 {str(frozen)[:12]} before, {after[:12]} after): "
            "nothing was written, latents made with it would not fit",
            "this must not happen: report it, and start again in another folder",
        )
    return after


def publish(out: Path, vae: Decoder, record: dict[str, Any]) -> None:
    """Move the written VAE to ``out``, write the record and remove the checkpoints.

    The record contains the sha256 that samples decoded by this VAE name (``VAE.describe``).
    """
    part = out / _PART
    with writing(out):
        origin = vae.origin
        if not origin.toy:
            origin = Origin("local", str(part), files=sorted(part.glob(_WEIGHTS)))
        record = {**record, "sha256": origin.describe(vae.net)["sha256"]}
        files = sorted(part.iterdir(), key=lambda path: path.name == "config.json")
        for path in files:  # config.json last: a folder without it is no VAE
            path.replace(out / path.name)
        part.rmdir()
        write_text(out / RECORD, json.dumps(record, indent=2) + "\n")
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    if not vae.origin.toy:
        vae.origin = Origin("local", str(out), files=sorted(out.glob(_WEIGHTS)))
