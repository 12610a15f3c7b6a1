"""The source images and the keypoints of the person in each, as the person editor has them.

They are exchanged as JSON: ``{"views": [...], "at": index of the view that is shown}``; each view
has ``key`` (of the file's content), ``name``, ``image`` (a small copy, as a data URL), its original
``width`` and ``height``, ``places`` (as ``skeleton.to_json`` writes a pose; null: not known),
``found`` (what the estimator found), ``placed`` (how many joints were placed: dragged one by one,
or all 18 where the figure was moved as a whole, loaded or found) and ``note`` (shown above the
image).

The user may edit them while Python computes an answer. So the editor takes from an answer only the
views that it does not have and the keypoints of the views that are ``loaded`` from a file.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import decode_image
from xmdpt_cli.pose.from_pose_image import LEAST_JOINTS
from xmdpt_cli.pose.keypoints import JOINTS, Keypoints
from xmdpt_cli.ui import skeleton

SIDE = 640  # pixels of the longer side of the small copy


@dataclass(frozen=True)
class View:
    """One source image. ``places``: (18, 2) fractions of its sides, NaN missing."""

    key: str
    name: str
    image: str
    width: int
    height: int
    places: Keypoints | None = None
    found: Keypoints | None = None
    note: str = ""
    placed: int = len(JOINTS)
    loaded: bool = False

    @property
    def moved(self) -> bool:
        """Whether the keypoints differ from those of the estimator."""
        return _listed(self.places) != _listed(self.found)

    @property
    def partly(self) -> bool:
        """Whether so few joints were dragged that the others cannot lie on the person."""
        return self.places is not None and self.placed < LEAST_JOINTS


@dataclass(frozen=True)
class PersonViews:
    """The views of a person in the order of the images, and the index ``at`` of the one shown."""

    views: tuple[View, ...] = ()
    at: int = 0

    def __getitem__(self, key: str) -> View | None:
        return next((view for view in self.views if view.key == key), None)


def key_of(path: Path) -> str:
    """A key for the content of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def view_of(path: Path, key: str) -> View:
    """A view without keypoints. XmdptError, naming the file as the user does, if it is broken."""
    image = decode_image(path, path.name)
    return View(key, path.name, data_url(image, SIDE), image.width, image.height)


def data_url(image: Image.Image, side: int) -> str:
    """A small copy as a JPEG data URL, which the page shows without a request."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    stream = io.BytesIO()
    small.save(stream, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def to_json(person: PersonViews) -> str:
    """``person`` as JSON text."""
    views = [
        {**vars(view), "places": _listed(view.places), "found": _listed(view.found)}
        for view in person.views
    ]
    return json.dumps({"views": views, "at": min(person.at, max(len(views) - 1, 0))})


def from_json(text: str | None) -> PersonViews:
    """Parse the text of ``to_json``, without the mark ``loaded``. XmdptError if it is not valid."""
    if not text:
        return PersonViews()
    try:
        data = json.loads(text)
        views = tuple(_view(item) for item in data["views"])
        at = int(data["at"])
        if not 0 <= at < max(len(views), 1):
            raise ValueError
        return PersonViews(views, at)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise XmdptError(
            "the keypoints of the images are not readable", "reload the page"
        ) from None


def _view(data: dict[str, Any]) -> View:
    return View(
        key=str(data["key"]),
        name=str(data["name"]),
        image=str(data["image"]),
        width=int(data["width"]),
        height=int(data["height"]),
        places=_pose(data["places"]),
        found=_pose(data["found"]),
        note=str(data["note"]),
        placed=int(data.get("placed", len(JOINTS))),
    )


def _pose(places: Any) -> Keypoints | None:
    return None if places is None else skeleton.points_of(places)


def _listed(points: Keypoints | None) -> Any:
    return None if points is None else skeleton.listed(points)
