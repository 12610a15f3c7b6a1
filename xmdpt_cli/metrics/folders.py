"""Two folders of images, paired by their names as the public codes write them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import is_hidden
from xmdpt_cli.utils.counts import counted
from xmdpt_cli.utils.image_types import is_image_name, not_read, say_not_read, why_not_read


def _same(name: str) -> str:
    return name


def _without_vis(name: str) -> str:
    """GFLA, NTED: ``SOURCE_2_TARGET_vis``."""
    return name.removesuffix("_vis")


def _target_of(name: str) -> str:
    """GFLA, PIDM, xmdpt: ``SOURCE_2_TARGET``; PCDMs: ``SOURCE_to_TARGET``."""
    bare = _without_vis(name)
    for between in ("_2_", "_to_"):
        if between in bare:
            return bare.rsplit(between, 1)[1]
    return bare


def _flat(target: str) -> str:
    """PIDM's folder of ground truths: ``deep`` before the flat name, which starts with
    ``fashion``."""
    return target.removeprefix("deep") if target.startswith("deepfashion") else target


#: rules from generated name to ground truth name, the simplest first
_RULES: tuple[Callable[[str], str], ...] = (_same, _without_vis, _target_of)


@dataclass(frozen=True)
class FolderPairs:
    """The pairs of two folders; the lists are sorted by name."""

    pairs: list[tuple[str, Path, Path]]  # (name, generated image, ground truth)
    generated_only: list[Path]
    target_only: list[Path]
    not_read: list[Path]  # images of types that are not read, in both folders


def pair_folders(generated: str | Path, target: str | Path) -> FolderPairs:
    """Pair the images directly inside two folders by file name without suffix.

    The names are the same, or those of GFLA, NTED, PIDM, PCDMs and xmdpt, which hold the source's
    name and the target's (several generated images may then have one target); whichever rule
    pairs the most. A ground truth may be named ``deepfashion...``, as in PIDM. Raises XmdptError
    for a missing folder, two images of one name, or no pair.
    """
    left, right = _images_by_name(Path(generated)), _images_by_name(Path(target))
    own = {path: name for name, path in right.items()}
    right = {**{_flat(name): path for name, path in right.items()}, **right}
    found = [{name: rule(name) for name in left if rule(name) in right} for rule in _RULES]
    best = max(found, key=len)  # the first, simplest rule of equals
    if not best:
        names = [path.name for place in (generated, target) for path in images_not_read(place)]
        unread = f"; {say_not_read(names)}" if names else ""
        raise XmdptError(
            f"no file name of {generated} ({counted(len(left), 'image')}) is in {target} "
            f"({len(right)}){unread}",
            "give both images of a pair the same name (suffixes may differ), or the generated "
            "one SOURCE_2_TARGET",
        )
    met = {right[name] for name in best.values()}
    return FolderPairs(
        pairs=[(name, left[name], right[best[name]]) for name in sorted(best)],
        generated_only=[left[name] for name in sorted(left.keys() - best.keys())],
        target_only=sorted(own.keys() - met, key=own.__getitem__),
        not_read=[path for folder in (generated, target) for path in images_not_read(folder)],
    )


def images_in(folder: str | Path) -> list[Path]:
    """The images directly inside a folder, by name. XmdptError if there is no such folder."""
    if not Path(folder).is_dir():
        raise XmdptError(f"no such folder: {folder}")
    paths = sorted(Path(folder).iterdir())
    return [
        path
        for path in paths
        if is_image_name(path.name)
        and not is_hidden(path.name)
        and why_not_read(path.name) is None
        and path.is_file()
    ]


def images_not_read(folder: str | Path) -> list[Path]:
    """The images directly inside a folder that are of a type that is not read, by name."""
    return not_read(sorted(Path(folder).iterdir()))


def _images_by_name(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    paths = images_in(folder)
    # macOS may write an accent as a letter of its own, other systems do not
    forms = Counter(unicodedata.normalize("NFC", stem) for stem in {path.stem for path in paths})
    for path in paths:
        one_form = unicodedata.normalize("NFC", path.stem)
        name = one_form if forms[one_form] == 1 else path.stem
        if name in found:
            raise XmdptError(
                f"two images of one name: {found[name]} and {path}", "remove one of them"
            )
        found[name] = path
    return found
