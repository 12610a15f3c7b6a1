"""DeepFashion file names, both ways: the raw tree's and the flat ones of the published lists."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from xmdpt_cli.errors import XmdptError

# One name in its two forms:
#   fashionWOMENDressesid0000000202_1front.jpg  <->  WOMEN/Dresses/id_00000002/02_1_front.jpg
_FLAT = re.compile(r"^fashion(MEN|WOMEN)(.+?)id(\d{8})(\d{2})_(\d)([a-z]+)\.(jpe?g|png)$")
_TREE = re.compile(r"^(?:.*/)?(MEN|WOMEN)/([^/]+)/id_(\d{8})/(\d{2})_(\d)_([a-z]+)\.(jpe?g|png)$")


class ImageName(NamedTuple):
    """The parts of one picture's name."""

    gender: str  # MEN or WOMEN
    category: str  # Blouses_Shirts
    item: str  # 8 digits
    colour: str  # 2 digits: the same item in another colour is another garment
    number: str  # 1 digit
    kind: str  # front, side, back, full, flat, additional
    suffix: str = "jpg"

    @property
    def view(self) -> str:
        """``1_front``."""
        return f"{self.number}_{self.kind}"

    @property
    def garment(self) -> str:
        """``WOMEN-Dresses-id_00000002-02``."""
        return f"{self.gender}-{self.category}-id_{self.item}-{self.colour}"

    @property
    def flat(self) -> str:
        """``fashionWOMENDressesid0000000202_1front.jpg``: category underscores stay."""
        return (
            f"fashion{self.gender}{self.category}id{self.item}{self.colour}"
            f"_{self.number}{self.kind}.{self.suffix}"
        )

    @property
    def path(self) -> str:
        """``WOMEN/Dresses/id_00000002/02_1_front.jpg``."""
        return (
            f"{self.gender}/{self.category}/id_{self.item}/"
            f"{self.colour}_{self.number}_{self.kind}.{self.suffix}"
        )


@lru_cache(maxsize=2**18)  # lists name every picture several times
def parse_name(text: str) -> ImageName:
    """Either form -> its parts; folders before the tree form (``img/WOMEN/...``) are ignored.

    Raises XmdptError for anything else.
    """
    text = text.strip().replace("\\", "/")
    found = _FLAT.match(text.rsplit("/", 1)[-1]) or _TREE.match(text)
    if found is None:
        raise XmdptError(
            f"not a DeepFashion name: {text!r}",
            "expected WOMEN/Dresses/id_00000002/02_1_front.jpg "
            "or fashionWOMENDressesid0000000202_1front.jpg",
        )
    return ImageName(*found.groups())
