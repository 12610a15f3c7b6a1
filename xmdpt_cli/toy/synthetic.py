"""A synthetic dataset: people rendered by program, in the raw DeepFashion layout.

A few hundred persons with exact keypoints take seconds, and need no download or licence. The
same seed gives the same bytes on the same machine and libraries. Persons in the training and
test lists are disjoint.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import content
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.toy.people.pose import VIEWS
from xmdpt_cli.toy.people.render import render_people, usable_workers
from xmdpt_cli.toy.people.views import View, views_of
from xmdpt_cli.utils import records
from xmdpt_cli.utils.splits import SPLITS

MARK = "MADE_BY_XMDPT.txt"  # written last: marks a complete dataset
UNFINISHED = MARK + ".part"  # written first: marks an unfinished dataset
FORMAT = 2  # raised when the images change
FRAME = (256, 176)  # height and width of the annotation files' frame (DeepFashion's)


@dataclass(frozen=True)
class SyntheticSummary:
    """The size of a synthetic dataset; ``made`` is False if it existed already."""

    root: Path
    train_images: int
    test_images: int
    train_pairs: int
    test_pairs: int
    height: int
    width: int
    seed: int
    plain: bool
    made: bool


def make_synthetic(
    out: Path,
    *,
    people_train: int = 400,
    people_test: int = 32,
    views: int = 4,
    seed: int = 0,
    height: int = 256,
    plain: bool = False,
    progress: Progress = silent,
    workers: int | None = None,
) -> SyntheticSummary:
    """Write a synthetic dataset into the folder ``out``, unless it exists there already.

    ``people_*`` persons in one outfit each, ``views`` (2 to 5) images of each, ``height`` x
    round(height * 11 / 16) pixels. ``plain``: no patterns, jackets, or people cut
    off by the frame, which small images cannot show. Training pairs are all ordered pairs of a
    person's views; a test person gives the two pairs whose poses differ most. An interrupted
    dataset is made again. Raises XmdptError if the folder has other content or another synthetic
    dataset.
    """
    wanted = _parameters(people_train, people_test, views, seed, height, plain)
    out = Path(out)
    state = _state(out, wanted)
    items = _items(wanted)
    if state == "complete" and all((out / v.path).is_file() for g in items.values() for v in g):
        return _summary(out, wanted, made=False)
    _clear(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / UNFINISHED).write_text(_note(wanted), encoding="utf-8")
    keypoints: dict[str, NDArray[np.float64]] = {}
    to_frame = np.array(FRAME[::-1]) / (round(height * FRAME[1] / FRAME[0]), height)
    workers = usable_workers(len(items)) if workers is None else workers
    rendered = render_people(
        out,
        list(items),
        seed=seed,
        views=views,
        plain=plain,
        height=height,
        workers=workers,
    )
    for done, (item, points) in enumerate(zip(items.values(), rendered, strict=True), start=1):
        keypoints |= {v.name: p * to_frame for v, p in zip(item, points, strict=True)}
        progress("rendering", done * views, len(items) * views)
    for split in SPLITS:
        _write_lists(out, split, [g for (s, _), g in items.items() if s == split], keypoints)
    (out / UNFINISHED).replace(out / MARK)
    return _summary(out, wanted, made=True)


def views_in(root: Path) -> dict[str, View]:
    """The views of a finished dataset by flat name, e.g. to render their silhouettes."""
    parameters = _read_mark(Path(root))
    if parameters.get("format") != FORMAT:
        raise XmdptError(
            f"{root} was rendered by another version of xmdpt", "render it again: xmdpt synth"
        )
    return {view.name: view for item in _items(parameters).values() for view in item}


def _items(parameters: dict[str, int]) -> dict[tuple[str, int], list[View]]:
    """Every person's views by (split, index), in the order of the lists."""
    seed, views, plain = parameters["seed"], parameters["views"], bool(parameters["plain"])
    return {
        (split, i): views_of(split, i, seed=seed, views=views, plain=plain)
        for split in SPLITS
        for i in range(parameters[f"people_{split}"])
    }


def _parameters(
    train: int, test: int, views: int, seed: int, height: int, plain: bool
) -> dict[str, int]:
    if not 2 <= views <= len(VIEWS):
        raise XmdptError(
            f"a person has 2 to {len(VIEWS)} views, not {views}", f"--views {len(VIEWS)}"
        )
    if train < 1 or test < 1 or seed < 0:
        raise XmdptError(f"need at least 1 person to train and 1 to test, and a seed from 0 "
                         f"(got {train}, {test}, seed {seed})")  # fmt: skip
    if not 32 <= height <= 1101:
        raise XmdptError(f"images are 32 to 1101 pixels high, not {height}", "--height 256")
    return {"format": FORMAT, "people_train": train, "people_test": test, "views": views,
            "seed": seed, "height": height, "plain": int(plain)}  # fmt: skip


def _note(parameters: dict[str, int]) -> str:
    return (
        "Synthetic people rendered by program (xmdpt), in the layout of DeepFashion In-shop.\n"
        "No photograph, no real person.\n" + json.dumps(parameters) + "\n"
    )


def _state(out: Path, wanted: dict[str, int]) -> str:
    """ "new", "unfinished" or "complete"; XmdptError for any other folder or synthetic dataset."""
    if not out.exists():
        return "new"
    if not out.is_dir():
        raise XmdptError(f"not a folder: {out}", "choose another folder: --out DIR")
    if (out / MARK).is_file():
        mark = _read_mark(out)
        if mark != wanted:
            raise XmdptError(
                f"{out} holds other synthetic people: {json.dumps(mark)}",
                "choose another folder, or remove that one",
            )
        return "complete"
    if (out / UNFINISHED).is_file():
        return "unfinished"
    if content(out):
        raise XmdptError(
            f"{out} is not empty and holds no synthetic dataset", "choose an empty folder"
        )
    return "new"


def _read_mark(root: Path) -> dict[str, int]:
    try:
        note = (root / MARK).read_text(encoding="utf-8").splitlines()[-1]
    except FileNotFoundError:
        raise XmdptError(f"{root} holds no finished synthetic dataset") from None
    except (OSError, ValueError, IndexError):
        raise XmdptError(f"cannot read {root / MARK}", f"remove {root}") from None
    counts: dict[str, int] = records.parse(dict[str, int], note, root / MARK, f"remove {root}")
    return counts


def _clear(out: Path) -> None:
    """Remove the images of an interrupted or damaged dataset, and its mark."""
    if (out / MARK).is_file():
        (out / MARK).replace(out / UNFINISHED)
    shutil.rmtree(out / "img_highres", ignore_errors=True)


def _write_lists(
    out: Path, split: str, items: list[list[View]], keypoints: dict[str, NDArray[np.float64]]
) -> None:
    """Write the lists under their published file names."""
    names = [view.name for item in items for view in item]
    _write(out / f"{split}.lst", names)
    rows = ["name:keypoints_y:keypoints_x"]
    for name in names:
        x, y = _integers(keypoints[name])
        rows.append(f"{name}: {y}: {x}")
    _write(out / f"fasion-resize-annotation-{split}.csv", rows)
    pairs = [pair for item in items for pair in _pairs(item, split, keypoints)]
    rows = ["from,to", *(f"{source.name},{target.name}" for source, target in pairs)]
    _write(out / f"fasion-resize-pairs-{split}.csv", rows)


def _write(path: Path, rows: list[str]) -> None:
    path.write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")


def _integers(points: NDArray[np.float64]) -> tuple[list[int], list[int]]:
    """x and y as integer pixels of the annotation frame, -1 if missing."""
    top = np.array([FRAME[1] - 1, FRAME[0] - 1])
    pixels = np.clip(np.floor(np.nan_to_num(points, nan=0.0)), 0, top).astype(int)
    pixels[np.isnan(points).any(axis=1)] = -1
    return pixels[:, 0].tolist(), pixels[:, 1].tolist()


def _pairs(
    item: list[View], split: str, keypoints: dict[str, NDArray[np.float64]]
) -> list[tuple[View, View]]:
    """All ordered pairs of a training person; for a test person two of clearly different poses and
    with different targets."""
    pairs = list(permutations(item, 2))
    if split == "train":
        return pairs

    def change(pair: tuple[View, View]) -> float:
        """Mean movement of the joints that both views show; cropped targets come last."""
        a, b = (keypoints[view.name] for view in pair)
        complete = float(np.isfinite(b[1:14, 0]).mean() == 1.0)
        return 1000.0 * complete + float(np.nanmean(np.abs(a - b)))

    front = max((p for p in pairs if p[0] is item[0]), key=change)
    second = max((p for p in pairs if p[1] is not front[1]), key=change)
    return [front, second]


def _summary(out: Path, wanted: dict[str, int], *, made: bool) -> SyntheticSummary:
    train, test, views = wanted["people_train"], wanted["people_test"], wanted["views"]
    return SyntheticSummary(
        root=out,
        train_images=train * views,
        test_images=test * views,
        train_pairs=train * views * (views - 1),
        test_pairs=2 * test,
        height=wanted["height"],
        width=round(wanted["height"] * FRAME[1] / FRAME[0]),
        seed=wanted["seed"],
        plain=bool(wanted["plain"]),
        made=made,
    )
