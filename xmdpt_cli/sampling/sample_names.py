"""File names of the generated images of a dataset's pairs."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

from xmdpt_cli.data.table import PairRef
from xmdpt_cli.utils.deepfashion_names import match_name

_PUBLISHED = re.compile(r"(MEN|WOMEN)-(.+)-(id_\d{8})-(\d{2})")
_HASH = 8  # hexadecimal digits


def sample_names(pairs: Sequence[PairRef]) -> list[str]:
    """A file name for each pair of a split, unique on every file system.

    Pass all pairs of the split: a name must not depend on how many of them are generated. Keys of
    own people may differ in case only, which some file systems ignore: these names end in a short
    hash of the pair.
    """
    names = [sample_name(pair) for pair in pairs]
    count = Counter(name.casefold() for name in names)
    for i, (name, pair) in enumerate(zip(names, pairs, strict=True)):
        if count[name.casefold()] > 1:
            digest = hashlib.sha256(pair.name().encode()).hexdigest()[:_HASH]
            names[i] = f"{name.removesuffix('.png')}.{digest}.png"
    return names


def sample_name(pair: PairRef) -> str:
    """DeepFashion: both flat names joined by ``_2_``, source first, as in published results:
    ``fashion..._1front_2_fashion..._2side.png``. Own people: ``alice.front_2_alice.side.png``;
    keys and views contain no dot, so different pairs have different names."""
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
