"""The images of a synthetic dataset: each is a pure function of (seed, split, person, view)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xmdpt_cli.toy.people.figure import Rendering, render_person
from xmdpt_cli.toy.people.person import Person, make_person
from xmdpt_cli.toy.people.pose import VIEWS, Pose, Skeleton, make_pose
from xmdpt_cli.utils.splits import SPLITS

FIRST_ID = {"train": 1, "test": 50_000_001}  # far apart, so that ids are disjoint


@dataclass(frozen=True)
class View:
    """One image to render: the person, the pose, and the names of its file."""

    person: Person
    pose: Pose
    background: float
    light: float  # strength; negative from the upper left, positive from the upper right
    path: str  # img_highres/WOMEN/Dresses/id_00000001/01_1_front.jpg
    name: str  # fashionWOMENDressesid0000000101_1front.jpg


def views_of(
    split: str, index: int, *, seed: int, views: int = 4, plain: bool = False
) -> list[View]:
    """The ``views`` (2 to 5) images of person ``index`` (from 0) of "train" or "test".

    ``plain``: clothes without patterns, and the complete body inside the frame.
    """
    key = [seed, SPLITS.index(split), index]
    person = make_person([*key, 0], plain=plain)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([*key, 1])))
    # the front view is always included, the others are random
    others = np.sort(rng.permutation(np.arange(1, len(VIEWS)))[: views - 1])
    sex, item = "WOMEN" if person.woman else "MEN", f"{FIRST_ID[split] + index:08d}"
    background = float(rng.uniform(0.87, 0.97))
    studio = np.random.Generator(np.random.PCG64(np.random.SeedSequence([*key, 2])))
    light = float(studio.uniform(0.07, 0.18)) * (1.0 if studio.random() < 0.5 else -1.0)
    out = []
    for view in (VIEWS[0], *(VIEWS[int(i)] for i in others)):
        path = f"img_highres/{sex}/{person.category}/id_{item}/01_{view}.jpg"
        name = f"fashion{sex}{person.category}id{item}01_{view.replace('_', '')}.jpg"
        shade = background + float(rng.uniform(-0.012, 0.012))
        pose = make_pose(rng, view, full_body=plain)
        out.append(View(person, pose, shade, light, path, name))
    return out


def render_view(view: View, *, height: int = 256, joints: Skeleton | None = None) -> Rendering:
    """The image of a view before JPEG compression, with its exact keypoints and silhouette.

    ``joints``: instead of those of the pose, as of ``render_person``.
    """
    return render_person(
        view.person, view.pose,
        height=height, background=view.background, light=view.light, joints=joints,
    )  # fmt: skip
