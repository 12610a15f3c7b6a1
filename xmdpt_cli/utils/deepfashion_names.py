"""DeepFashion file names, both ways: the raw tree's and the flat ones of the published lists."""

from __future__ import annotations

import re
from functools import lru_cache
from sys import intern
from typing import NamedTuple

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.utils.image_types import SUFFIXES as SUFFIXES

# One name in its two forms:
#   fashionWOMENDressesid0000000202_1front.jpg  <->  WOMEN/Dresses/id_00000002/02_1_front.jpg
_ENDS = rf"\.((?i:{'|'.join(SUFFIXES)}))"
_FLAT_PARTS = r"fashion(MEN|WOMEN)([^/]+?)id(\d{8})(\d{2})_(\d)([a-z]+)"
_TREE_PARTS = r"(MEN|WOMEN)/([^/]+)/id_(\d{8})/(\d{2})_(\d)_([a-z]+)"
_FLAT = re.compile(rf"^{_FLAT_PARTS}{_ENDS}$")
TREE = re.compile(rf"^(?:.*/)?{_TREE_PARTS}{_ENDS}$")
# Keys of a database: any prefix (`256-`, `img/`) that does not run into the name; the suffix may
# be gone.
_KEYS = tuple(
    re.compile(rf"(?:^|[^A-Za-z]){parts}(?:{_ENDS})?$") for parts in (_FLAT_PARTS, _TREE_PARTS)
)


class ImageName(NamedTuple):
    """The parts of one image's name."""

    gender: str  # MEN or WOMEN
    category: str  # Blouses_Shirts
    item: str  # 8 digits
    colour: str  # 2 digits: the same item in another colour is another item
    number: str  # 1 digit
    kind: str  # front, side, back, full, flat, additional
    suffix: str = "jpg"

    @property
    def view(self) -> str:
        """``1_front``."""
        return f"{self.number}_{self.kind}"

    @property
    def item_key(self) -> str:
        """``WOMEN-Dresses-id_00000002-02``."""
        return f"{self.gender}-{self.category}-id_{self.item}-{self.colour}"

    @property
    def key(self) -> str:
        """``WOMEN-Dresses-id_00000002-02/1_front``: the image, whatever its suffix."""
        return f"{self.item_key}/{self.number}_{self.kind}"

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


def match_name(text: str) -> ImageName | None:
    """Either form -> its parts, None for anything else; folders before either are ignored."""
    return _parts(_FLAT.match(text.rsplit("/", 1)[-1]) or TREE.match(text))


def match_key(text: str) -> ImageName | None:
    """``match_name`` for a database's key: prefixes are ignored, no suffix counts as ``jpg``."""
    text = text.strip().replace("\\", "/")
    return next((name for key in _KEYS if (name := _parts(key.search(text)))), None)


@lru_cache(maxsize=2**18)  # lists name every image several times
def parse_name(text: str) -> ImageName:
    """Either form -> its parts; folders before the tree form (``img/WOMEN/...``) are ignored.

    Raises XmdptError for anything else.
    """
    text = text.strip().replace("\\", "/")
    name = match_name(text)
    if name is None:
        raise XmdptError(
            f"not a DeepFashion name: {text!r}",
            "expected WOMEN/Dresses/id_00000002/02_1_front.jpg "
            "or fashionWOMENDressesid0000000202_1front.jpg",
        )
    return name


def _parts(found: re.Match[str] | None) -> ImageName | None:
    if found is None:
        return None
    gender, category, item, colour, number, kind, suffix = found.groups(default="jpg")
    if not category.strip("."):
        return None  # a way to another folder, and no category
    # tens of thousands of names share a few dozen parts
    return ImageName(
        intern(gender), intern(category), item, intern(colour), intern(number), intern(kind),
        intern(suffix),
    )  # fmt: skip
