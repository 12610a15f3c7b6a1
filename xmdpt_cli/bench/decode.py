"""What ``prepare`` is compared with; a file of its own, since decoder processes import it and do
without torch."""

from __future__ import annotations

from collections.abc import Sequence

from xmdpt_cli.datasets.listing import Item
from xmdpt_cli.images import resize_square


def decode_and_resize(item: Item, sizes: Sequence[int]) -> None:
    """Decode the images of an item in memory, resize them, and throw them away."""
    for file in item.views.values():
        image = file.load()
        for size in sizes:
            resize_square(image, size)
