"""How many pictures are drawn together, and what happens when that was too many.

What a batch needs is counted from the shapes, a little generously; where that was still too little
memory, the batch is halved and the work goes on.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from xmdpt_cli.encoders.vae import BYTES_A_PIXEL, VAE
from xmdpt_cli.errors import ConfigError, XmdptError, is_out_of_memory
from xmdpt_cli.files import human_bytes
from xmdpt_cli.sampling.sampler import Sampler

T = TypeVar("T")
R = TypeVar("R")

ON_CPU, ON_GPU = 8, 64  # pictures at once without a limit: more is no faster
#: tokens x width values alive at once in a block: x, its norm, qkv, the MLP's 4 D twice, copies
ALIVE = 16
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
    """What stays for the whole run: weights, and the biases of all attentions (T x T a head)."""
    net = sampler.model.tdnet
    size = net.position.element_size()
    weights = sum(p.numel() * p.element_size() for p in sampler.model.parameters())
    tokens = net.grid**2
    biases = len(net.blocks) * net.bias.heads * tokens * (tokens + net.bias.others) * size
    return weights + biases


def picture_bytes(sampler: Sampler) -> int:
    """What one picture more needs while it is drawn, both guidance branches."""
    net = sampler.model.tdnet
    tokens, width = net.grid**2, sampler.model.width
    keys = 2 * len(net.blocks) * net.bias.others  # of the source, in all blocks
    return 2 * width * net.position.element_size() * (ALIVE * tokens + keys)


def batch_size(sampler: Sampler, limit: int | None = None) -> int:
    """Pictures at once within ``limit`` bytes (None: what the device has free).

    Raises XmdptError if the model alone does not fit.
    """
    cuda = sampler.device.type == "cuda"
    most = ON_GPU if cuda else ON_CPU
    if limit is None and not cuda:
        return most
    fixed = model_bytes(sampler)
    if limit is None:
        free, _ = torch.cuda.mem_get_info(sampler.device)
        room = int(0.8 * free)  # the weights are there already
    else:
        room = limit - fixed
    count = room // picture_bytes(sampler)
    if count < 1:
        raise XmdptError(
            f"one picture needs {human_bytes(fixed + picture_bytes(sampler))}, more than "
            f"{human_bytes(limit or room)}",
            "raise --max-memory, or draw with a smaller model",
        )
    return min(most, count)


def limit_decoding(vae: VAE, limit: int | None) -> None:
    """The VAE decodes no more at once than fits into ``limit`` bytes."""
    if limit is not None:
        vae.chunk_pixels = max(1, min(vae.chunk_pixels, limit // (2 * BYTES_A_PIXEL)))


def in_batches(
    items: Sequence[T],
    size: int,
    work: Callable[[Sequence[T]], R],
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[R]:
    """``work`` on ``items`` in parts of ``size``; a part that does not fit into memory is halved,
    and all that follow are no larger. That is said once."""
    start, said = 0, False
    while start < len(items):
        part = items[start : start + size]
        try:
            result = work(part)
        except (RuntimeError, MemoryError) as err:
            if not is_out_of_memory(err) or len(part) == 1:
                raise
            size = len(part) // 2
        else:
            yield result
            start += len(part)
            continue
        # outside the handler: the error's frames hold what must go first
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not said:
            said = True
            say(f"out of memory: going on with batches of {size}")
