"""What the generated image of a dataset's pair is called."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

from xmdpt_cli.data.loader import PairRef
from xmdpt_cli.utils.deepfashion_names import match_name

_PUBLISHED = re.compile(r"(MEN|WOMEN)-(.+)-(id_\d{8})-(\d{2})")
_HASH = 8  # hexadecimal digits


def sample_names(pairs: Sequence[PairRef]) -> list[str]:
    """A file name for each pair of a split, all different on every file system.

    Give the whole split: a name must not depend on how many of the pairs are generated. Own people
    may differ in small and large letters alone, which some file systems do not tell apart; their
    names end in a short hash of the pair.
    """
    names = [sample_name(pair) for pair in pairs]
    count = Counter(name.casefold() for name in names)
    return [
        name if count[name.casefold()] == 1 else _told_apart(name, pair)
        for name, pair in zip(names, pairs, strict=True)
    ]


def sample_name(pair: PairRef) -> str:
    """Of DeepFashion both flat names joined by ``_2_``, source first, as the field names them:
    ``fashion..._1front_2_fashion..._2side.png``. Of own people ``alice.front_2_alice.side.png``:
    keys and views have no dot, so different pairs have different names."""
    published = _PUBLISHED.fullmatch(pair.key)
    if published is not None:
        gender, category, item, colour = published.groups()
        tree = [
            match_name(f"{gender}/{category}/{item}/{colour}_{view}.jpg")
            for view in (pair.source, pair.target)
        ]
        flat = [name.flat.removesuffix(".jpg") for name in tree if name is not None]
        if len(flat) == 2:
            return f"{flat[0]}_2_{flat[1]}.png"
    return f"{pair.key}.{pair.source}_2_{pair.key}.{pair.target}.png"


def _told_apart(name: str, pair: PairRef) -> str:
    digest = hashlib.sha256(pair.name().encode()).hexdigest()[:_HASH]
    return f"{name.removesuffix('.png')}.{digest}.png"
