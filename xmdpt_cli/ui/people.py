"""Event handlers of the Person column: images, their keypoints, examples."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.keypoints import JOINTS, Keypoints
from xmdpt_cli.ui import person_views
from xmdpt_cli.ui.estimator import Estimator
from xmdpt_cli.ui.examples import Examples
from xmdpt_cli.ui.files import checked, keypoints_of
from xmdpt_cli.ui.html_snippets import failed, note, short
from xmdpt_cli.ui.person_views import PersonViews, View

People = list[tuple[str, "str | None"]]

HOW = "Drag the joints onto the person; drag a limb to move the whole figure."
NEEDED = "This model needs the keypoints of the person. "
NOT_NEEDED = "Not needed, except to cut the person out of a larger image. "
FOUND = "Found by the keypoint estimator. Drag what is wrong."
NOT_FOUND = "The keypoint estimator found no person. "
KNOWN = "Known from the dataset."
VIEWS = "The model takes them together. For another person, clear them first."


def images_handler(
    model_lock: threading.Lock, estimator: Estimator
) -> Callable[..., tuple[Any, ...]]:
    """(people, keypoints) -> (status, keypoints, people, number of views), after images were added
    or removed.

    A broken image is reported at once. An image that is dropped beside an example person replaces
    it.
    """

    def inspect(people: People | None, keypoints: str | None) -> tuple[Any, ...]:
        names = [Path(path).name for path, _ in people or []]
        try:
            before = person_views.from_json(keypoints)
            kept = _without_example(people or [], before)
            views: list[View] = []
            new = before.at
            for path in checked(kept):
                key = person_views.key_of(path)
                known = before[key]
                if known is None:
                    new = len(views)
                    known = _located(person_views.view_of(path, key), path, model_lock, estimator)
                views.append(known)
            after = person_views.to_json(PersonViews(tuple(views), new))
            return (
                "",
                gr.skip() if after == keypoints else after,
                gr.skip() if len(kept) == len(names) else kept,
                _views(len(kept)),
            )
        except Exception as err:
            return failed(err, names=names), gr.skip(), gr.skip(), ""

    return inspect


def _without_example(people: People, before: PersonViews) -> list[str]:
    """The paths of the images, without the example person if there are others."""
    known = [(path, before[person_views.key_of(Path(path))]) for path, _ in people]
    own = [path for path, view in known if view is None or not view.example]
    return own or [path for path, _ in known]


def _views(number: int) -> str:
    return note(f"{number} views of one person", VIEWS) if number > 1 else ""


def _located(view: View, path: Path, model_lock: threading.Lock, estimator: Estimator) -> View:
    """Add the keypoints of the estimator, if the model needs keypoints."""
    if not estimator.needed:
        return replace(view, note=NOT_NEEDED + HOW)
    with model_lock:
        points = estimator.find(path)
    if points is not None:
        return replace(view, places=points, found=points, note=FOUND)
    return replace(view, note=(NEEDED if estimator.missing else NOT_FOUND) + HOW)


def keypoints_handler() -> Callable[..., tuple[Any, ...]]:
    """(files, people, keypoints) -> (keypoints, status, None: clears the file field).

    One file belongs to the image that is shown; several belong to the images in their order.
    """

    def load(
        files: list[str] | None, people: People | None, keypoints: str | None
    ) -> tuple[Any, ...]:
        names = [Path(file).name for file in files or []]
        try:
            known = person_views.from_json(keypoints)
            views = list(known.views)
            if not files or not people or len(people) != len(views):
                raise XmdptError("no image to which these keypoints belong", "drop an image first")
            which = [known.at] if len(files) == 1 else list(range(len(views)))
            if len(files) != len(which):
                raise XmdptError(
                    f"{len(files)} files of keypoints for {len(views)} images",
                    "drop one for each image, in their order, or one for the image that is shown",
                )
            notes = []
            for path, number in zip(files, which, strict=True):
                points, text = keypoints_of(Path(path), Path(people[number][0]))
                file = Path(path).name
                views[number] = _loaded(views[number], points, text.replace(file, short(file)))
                notes.append(text)
            loaded = person_views.to_json(PersonViews(tuple(views), known.at))
            return loaded, note("; ".join(notes), names=names), None
        except Exception as err:
            return gr.skip(), failed(err, names=names), None

    return load


def _loaded(view: View, points: Keypoints, text: str) -> View:
    return replace(view, places=points, placed=len(JOINTS), note=f"{text}.")


def example_handler(examples: Examples) -> Callable[[Any], tuple[Any, ...]]:
    """Number of an example -> (people, keypoints, status)."""

    def load(number: Any) -> tuple[Any, ...]:
        try:
            index = _integer(number)
            if index is None or not 0 <= index < len(examples.people):
                raise XmdptError("no such example", "reload the page")
            path = examples.file(index)
            points = examples.people[index].keypoints
            view = person_views.view_of(path, person_views.key_of(path))
            view = replace(view, places=points, note=KNOWN, example=True)
            return [str(path)], person_views.to_json(PersonViews((view,))), ""
        except Exception as err:
            return gr.skip(), gr.skip(), failed(err)

    return load


def _integer(number: Any) -> int | None:
    """An integer that a client sent as a number or as text; None for anything else."""
    try:
        return int(number)
    except (ValueError, TypeError, OverflowError):
        return None
