"""How many images are generated in a batch, and what happens when that was too many.

The memory of a batch is estimated from the shapes, a little generously; where the estimate was
still too low, the batch is halved.
"""

from __future__ import annotations

import gc
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from xmdpt_cli.encoders.vae import BYTES_A_PIXEL, VAE
from xmdpt_cli.errors import ConfigError, XmdptError, is_out_of_memory
from xmdpt_cli.files import human_bytes
from xmdpt_cli.model.fast import MODULATION_BYTES
from xmdpt_cli.sampling.sampler import Sampler
from xmdpt_cli.utils.devices import free_memory

T = TypeVar("T")
R = TypeVar("R")

ON_CPU, ON_GPU = 8, 64  # images at once without a limit: more is no faster
# Peaks of whole processes were measured (float32, one thread, random weights), in MiB; before a
# model is there a process has 840, as ``xmdpt sample`` 880. Estimated / measured:
#   S 256 px, batch 1, 4, 8: 1472 / 1051, 1547 / 1117, 1647 / 1169 (at 2 steps; 1284 at 50)
#   B 256 px, batch 1, 4, 8: 1943 / 1531, 2066 / 1640, 2230 / 1790
#   L 512 px, batch 1, 2:    4908 / 4606, 5085 / 4743
#   S 256 px with token conditions, batch 1, 4, 8: 1521 / 1106, 1674 / 1287, 1879 / 1476
# Of the difference 190 is the room for libraries that not every run loads, and 256 that for the
# modulations of many steps, which these runs of one or two did not need.
# sd-vae's decoder, above its weights: 256 px, 1 or 2 at once, 384 / 365, 640 / 544; 512 px,
# 1152 / 1137. L at 512 px told to stay below 8 GiB, 8 generated and 2 decoded at once: 7257 / 6276.
#: a process on a CPU without any network: Python, torch, diffusers
PROCESS_BYTES = 2**30
#: rows x tokens x width values alive at once in a block: x, its norm, qkv, the MLP's 4 D twice,
#: and what the allocator cannot use again
ALIVE = 20
#: of an image's DINOv2 tokens in float32: as read, the next batch's, and CANet's projections
TOKEN_COPIES = 4
#: what the VAE's first call leaves: its convolutions' kernels and the allocator's pieces
DECODER_BYTES = 160 * 2**20
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_bytes(text: str) -> int:
    """``8GB``, ``8g``, ``500 MiB`` -> bytes, in powers of 1024."""
    found = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?)i?b?\s*", text.lower())
    try:
        assert found
        return int(float(found[1]) * _UNITS[found[2]])
    except (AssertionError, ValueError):
        raise ConfigError(f"no amount of memory: {text!r}", "write it as 8GB or 500MB") from None


def model_bytes(sampler: Sampler) -> int:
    """What stays for the whole run: weights, and what ``_precomputed_bytes`` says."""
    return _weight_bytes(sampler.model) + _precomputed_bytes(sampler)


def _weight_bytes(net: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in net.parameters())


def _precomputed_bytes(sampler: Sampler) -> int:
    """The biases of all attentions (T x T a head), and the modulations of the steps to come."""
    net = sampler.model.tdnet
    tokens = net.grid**2
    biases = len(net.blocks) * net.heads * tokens * (tokens + _source_tokens(sampler))
    return biases * net.pos_embed.element_size() + MODULATION_BYTES


def _source_tokens(sampler: Sampler) -> int:
    """Tokens of one source view that attention reads."""
    return 0 if sampler.model.tokens is None else sampler.model.tdnet.grid**2


def held_bytes(sampler: Sampler, vae: VAE) -> int:
    """Bytes besides the images being generated or decoded; on a CPU of the whole process."""
    decoder = _weight_bytes(vae.net) + DECODER_BYTES
    process = PROCESS_BYTES if sampler.device.type == "cpu" else 0
    return process + model_bytes(sampler) + decoder


def image_bytes(sampler: Sampler) -> int:
    """What one image more needs while it is generated, both guidance branches."""
    model, net = sampler.model, sampler.model.tdnet
    tokens, rows = net.grid**2, 2
    keys = (
        3 * 2 * len(net.blocks) * _source_tokens(sampler)
    )  # of the source, in all blocks, and doubled
    values = model.width * (rows * ALIVE * tokens + keys)
    given = math.prod(model.canet.pose_shape) + math.prod(model.canet.source_shape)
    return net.pos_embed.element_size() * values + 4 * TOKEN_COPIES * given


def fit_memory(sampler: Sampler, vae: VAE, limit: int | None, side: int) -> int:
    """How many images of ``side`` x ``side`` to generate at once, so that all of it stays within
    ``limit`` bytes: on a CPU the whole process. The VAE decodes no more at once than fits, too.
    None: what the device has free. XmdptError if a limit is too small for one image."""
    if limit is not None:
        held = held_bytes(sampler, vae)
        limit_decoding(vae, limit, held, side)
        return batch_within(sampler, limit, held)
    room = _room(sampler)
    if room is not None:
        vae.chunk_pixels = max(1, min(vae.chunk_pixels, room // BYTES_A_PIXEL))
    return batch_size(sampler)


def batch_size(sampler: Sampler) -> int:
    """Images at once in what the device has free; at least one: an estimate is no reason to
    refuse."""
    room = _room(sampler)
    most = _most(sampler)
    return most if room is None else max(1, min(most, room // image_bytes(sampler)))


def batch_within(sampler: Sampler, limit: int, held: int) -> int:
    """Images at once within ``limit`` bytes, of which ``held`` are taken. XmdptError if not even
    one fits."""
    one = image_bytes(sampler)
    if limit - held < one:
        raise XmdptError(
            f"one image needs {human_bytes(held + one)}, more than {human_bytes(limit)}",
            "raise --max-memory, or use a smaller model or --precision bf16",
        )
    return min(_most(sampler), (limit - held) // one)


def _most(sampler: Sampler) -> int:
    return ON_GPU if sampler.device.type == "cuda" else ON_CPU


def _room(sampler: Sampler) -> int | None:
    """Bytes for batches, now that the weights are there; None: not known (no Linux)."""
    free = free_memory(sampler.device)
    return None if free is None else int(0.8 * free) - _precomputed_bytes(sampler)


def limit_decoding(vae: VAE, limit: int, held: int, side: int) -> None:
    """The VAE decodes no more at once than fits into ``limit`` bytes, of which ``held`` are taken.
    XmdptError if an image of ``side`` x ``side`` does not fit."""
    pixels = (limit - held) // BYTES_A_PIXEL
    if pixels < side**2:
        needed = held + side**2 * BYTES_A_PIXEL
        raise XmdptError(
            f"to decode one image needs {human_bytes(needed)}, more than {human_bytes(limit)}",
            "raise --max-memory, or use a smaller model or --precision bf16",
        )
    vae.chunk_pixels = min(vae.chunk_pixels, pixels)


def in_batches(
    items: Sequence[T],
    size: int,
    run: Callable[[Sequence[T]], R],
    notify: Callable[[str], None] = lambda _: None,
) -> Iterator[R]:
    """``run`` on ``items`` in parts of ``size``; a part that does not fit into memory is halved,
    and all that follow are no larger; ``notify`` is called once. XmdptError if a single item does
    not fit."""
    start, notified = 0, False
    while start < len(items):
        part = items[start : start + size]
        try:
            result = run(part)
        except (RuntimeError, MemoryError) as err:
            if not is_out_of_memory(err):
                raise
            if len(part) == 1:
                raise XmdptError(
                    f"out of memory with a single image ({_first_line(err)})",
                    "end what else uses this memory, or take a smaller model or --precision bf16; "
                    "the same command then resumes",
                ) from err
            size = len(part) // 2
        else:
            yield result
            start += len(part)
            continue
        # outside the handler: the error's frames hold what must go first
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not notified:
            notified = True
            notify(f"out of memory: going on with batches of {size}")


def _first_line(err: BaseException) -> str:
    return str(err).partition("\n")[0].strip() or type(err).__name__
