"""The work that ``prepare`` is compared with; processes import this file without torch."""

from __future__ import annotations

from xmdpt_cli.datasets.listing import Item
from xmdpt_cli.images import resize_square


def decode_and_resize(item: Item, size: int) -> None:
    """Decode the images of an item in memory, resize them to ``size``, and discard them."""
    for file in item.views.values():
        resize_square(file.load(), size)
