"""The tiny decoder that ``xmdpt finetune-vae --decoder tiny`` starts from."""

from __future__ import annotations

import math
from functools import partial
from typing import cast

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.encoders.identity import VAERecord
from xmdpt_cli.encoders.places import without_path
from xmdpt_cli.encoders.tiny_decoder import PUBLISHED, START_HINT, WIDTH, TinyDecoder, load_network
from xmdpt_cli.encoders.vae import VAE
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.training.distributed import SINGLE_PROCESS, Distributed

NONE = "none"  # the value of --start for random weights
_SD_SCALE = 0.18215  # of Stable Diffusion's latents


def start_tiny(
    dataset: PairDataset,
    vae: VAE,
    start: str | None,
    *,
    seed: int = 0,
    dist: Distributed = SINGLE_PROCESS,
) -> tuple[TinyDecoder, str]:
    """The decoder to train for the dataset's latents, and a sentence on what it starts from.

    ``start``: a folder or hub id of an AutoencoderTiny, ``NONE`` for random weights, or None: the
    published TAESD for Stable Diffusion's latents if it is found, else random weights. ``vae``: the
    full decoder, than which it is not wider. Raises XmdptError if a given ``start`` is not found.
    """
    latents = cast("VAERecord", without_path(dataset.manifest["encoders"]["vae"]))
    if start is None:
        start, why = dist.run_on_main(partial(_default_start, latents))
    else:
        why = "--start"
    width = min(WIDTH, max(vae.net.config.block_out_channels))
    if start == NONE:
        made = TinyDecoder.untrained(latents, width=width, seed=seed)
        what = f"random weights ({why})"
    else:
        made, what = TinyDecoder.untrained(latents, start), f"{start} ({why})"
    made.to(vae.device)
    return made, what


def _default_start(latents: VAERecord) -> tuple[str, str]:
    """``PUBLISHED`` or ``NONE``, and why."""
    shape = (latents["channels"], latents["factor"])
    if latents["toy"] or shape != (4, 8) or not math.isclose(latents["scale"], _SD_SCALE):
        return NONE, f"{PUBLISHED} decodes Stable Diffusion's latents, not these"
    try:
        load_network(PUBLISHED, hint=START_HINT)
    except XmdptError as err:
        return NONE, f"{err.message}; {err.hint}"
    return PUBLISHED, "the latents are Stable Diffusion's"
