"""The number of images in a batch, and smaller batches when memory runs out.

The memory of a batch is estimated from the shapes, slightly too high; a batch that does not fit all
the same is halved.
"""

from __future__ import annotations

import gc
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from xmdpt_cli.encoders.decoder import BYTES_A_PIXEL, Decoder
from xmdpt_cli.errors import ConfigError, XmdptError, is_out_of_memory
from xmdpt_cli.files import human_bytes
from xmdpt_cli.model.denoiser import MODULATION_BYTES
from xmdpt_cli.sampling.sampler import Sampler
from xmdpt_cli.utils.devices import free_memory

T = TypeVar("T")
R = TypeVar("R")

ON_CPU, ON_GPU = 8, 64  # largest batches: larger ones are no faster
#: compiling on a CPU takes about a minute: it pays from this many forward passes on
COMPILE_FROM = 500
# Measured peaks of processes (float32, one thread, random weights), in MiB; without a model a
# process has 840, ``xmdpt sample`` 880. Estimated / measured:
#   S 256 px, batch 1, 4, 8: 1472 / 1051, 1547 / 1117, 1647 / 1169 (at 2 steps; 1284 at 50)
#   B 256 px, batch 1, 4, 8: 1943 / 1531, 2066 / 1640, 2230 / 1790
#   L 512 px, batch 1, 2:    4908 / 4606, 5085 / 4743
#   S 256 px with token conditions, batch 1, 4, 8: 1521 / 1106, 1674 / 1287, 1879 / 1476
# Of the difference 190 is for libraries that not every run loads, and 256 for the modulations of
# many steps, which these runs of one or two steps did not need.
# sd-vae's decoder, above its weights: 256 px, 1 or 2 at once, 384 / 365, 640 / 544; 512 px,
# 1152 / 1137. L at 512 px with a limit of 8 GiB, 8 generated and 2 decoded at once: 7257 / 6276.
#: a process on a CPU without a network: Python, torch, diffusers
PROCESS_BYTES = 2**30
#: rows x tokens x width values alive at once in a block: x, its norm, qkv, the MLP's 4 D twice,
#: and what the allocator cannot reuse
ALIVE = 20
#: of an image's DINOv2 tokens in float32: this batch's, the next batch's, and CANet's projections
TOKEN_COPIES = 4
#: what the VAE's first call keeps: kernels of its convolutions and fragments of the allocator
DECODER_BYTES = 160 * 2**20
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_bytes(text: str) -> int:
    """``8GB``, ``8g``, ``500 MiB`` -> bytes, in powers of 1024. ConfigError for other texts."""
    found = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?)i?b?\s*", text.lower())
    try:
        assert found
        return int(float(found[1]) * _UNITS[found[2]])
    except (AssertionError, ValueError):
        raise ConfigError(
            f"not an amount of memory: {text!r}", "write it as 8GB or 500MB"
        ) from None


def model_bytes(sampler: Sampler) -> int:
    """Bytes that the model holds throughout sampling: weights and precomputed tensors."""
    return _weight_bytes(sampler.model) + _precomputed_bytes(sampler)


def _weight_bytes(net: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in net.parameters())


def _precomputed_bytes(sampler: Sampler) -> int:
    """Bytes of the attention biases (T x T a head) and of the modulations of all steps."""
    net = sampler.model.tdnet
    tokens = net.grid**2
    biases = len(net.blocks) * net.heads * tokens * (tokens + _source_tokens(sampler))
    return biases * net.pos_embed.element_size() + MODULATION_BYTES


def _source_tokens(sampler: Sampler) -> int:
    """The number of tokens of one source view that attention reads."""
    return 0 if sampler.model.tokens is None else sampler.model.tdnet.grid**2


def held_bytes(sampler: Sampler, vae: Decoder) -> int:
    """Bytes without the images being generated or decoded; on a CPU of the whole process."""
    decoder = _weight_bytes(vae.net) + DECODER_BYTES
    process = PROCESS_BYTES if sampler.device.type == "cpu" else 0
    return process + model_bytes(sampler) + decoder


def image_bytes(sampler: Sampler) -> int:
    """Bytes of each image while it is generated, for both branches of guidance."""
    model, net = sampler.model, sampler.model.tdnet
    tokens, rows = net.grid**2, 2
    # keys and values of the source in all blocks, for both branches
    keys = 3 * 2 * len(net.blocks) * _source_tokens(sampler)
    values = model.width * (rows * ALIVE * tokens + keys)
    dino = math.prod(model.canet.pose_shape) + math.prod(model.canet.source_shape)
    return net.pos_embed.element_size() * values + 4 * TOKEN_COPIES * dino


def fit_memory(sampler: Sampler, vae: Decoder, limit: int | None, side: int) -> int:
    """The batch size for images of ``side`` x ``side`` within ``limit`` bytes, on a CPU of the
    whole process; None: within the device's free memory. Also limits the VAE's ``chunk_pixels``.
    Raises XmdptError if the limit is too small for one image."""
    if limit is not None:
        held = held_bytes(sampler, vae)
        limit_decoding(vae, limit, held, side)
        return batch_within(sampler, limit, held)
    room = _room(sampler)
    if room is not None:
        vae.chunk_pixels = max(1, min(vae.chunk_pixels, room // BYTES_A_PIXEL))
    return batch_size(sampler)


def batch_size(sampler: Sampler) -> int:
    """The batch size for the device's free memory; at least 1, since it is only an estimate."""
    room, most = _room(sampler), _most(sampler)
    return most if room is None else max(1, min(most, room // image_bytes(sampler)))


def batch_and_compile(
    sampler: Sampler, largest: int, images: int, steps: int, compile_: str = "auto"
) -> int:
    """The batch size for so many images, at most ``largest``; compiles the model if that pays.

    ``compile_``: ``on``, ``off``, or ``auto`` (on a GPU, or for many forward passes).
    """
    size = max(1, min(largest, images))
    pays = sampler.device.type == "cuda" or -(-images // size) * steps >= COMPILE_FROM
    if compile_ == "on" or (compile_ == "auto" and pays):
        sampler.compile(size)
    return size


def batch_within(sampler: Sampler, limit: int, held: int) -> int:
    """The batch size within ``limit`` bytes, of which ``held`` are taken. XmdptError if not even
    one image fits."""
    each = image_bytes(sampler)
    if limit - held < each:
        raise _too_small("one image needs", held + each, limit)
    return min(_most(sampler), (limit - held) // each)


def _most(sampler: Sampler) -> int:
    return ON_GPU if sampler.device.type == "cuda" else ON_CPU


def _room(sampler: Sampler) -> int | None:
    """Free bytes for batches once the weights are loaded; None: unknown (not on Linux)."""
    free = free_memory(sampler.device)
    return None if free is None else int(0.8 * free) - _precomputed_bytes(sampler)


def limit_decoding(vae: Decoder, limit: int, held: int, side: int) -> None:
    """Limit the VAE's ``chunk_pixels`` to ``limit`` bytes, of which ``held`` are taken. XmdptError
    if an image of ``side`` x ``side`` does not fit."""
    pixels = (limit - held) // BYTES_A_PIXEL
    if pixels < side**2:
        raise _too_small("to decode one image needs", held + side**2 * BYTES_A_PIXEL, limit)
    vae.chunk_pixels = min(vae.chunk_pixels, pixels)


def _too_small(what: str, needed: int, limit: int) -> XmdptError:
    return XmdptError(
        f"{what} {human_bytes(needed)}, more than {human_bytes(limit)}",
        "raise --max-memory, or use a smaller model or --precision bf16",
    )


def in_batches(
    items: Sequence[T],
    size: int,
    run: Callable[[Sequence[T]], R],
    notify: Callable[[str], None] = lambda _: None,
) -> Iterator[R]:
    """Yield ``run(part)`` for parts of ``size`` items. A part that does not fit into memory is
    halved, and so are all later ones; ``notify`` is called once. XmdptError if a single item does
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
                first_line = str(err).partition("\n")[0].strip() or type(err).__name__
                raise XmdptError(
                    f"out of memory with a single image ({first_line})",
                    "close other programs that use this memory, or use a smaller model or "
                    "--precision bf16; the same command then resumes",
                ) from err
            size = len(part) // 2
        else:
            yield result
            start += len(part)
            continue
        # outside of the handler, since the error's frames hold the tensors of the part
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not notified:
            notified = True
            notify(f"out of memory: continuing with batches of {size}")
