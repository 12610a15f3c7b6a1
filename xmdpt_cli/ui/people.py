"""Event handlers of the Person column: images, their keypoints, examples."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.keypoints import JOINTS
from xmdpt_cli.ui import person_views
from xmdpt_cli.ui.estimator import Estimator
from xmdpt_cli.ui.examples import Examples
from xmdpt_cli.ui.files import checked, keypoints_of
from xmdpt_cli.ui.html_snippets import failed, note, short
from xmdpt_cli.ui.person_views import PersonViews, View
from xmdpt_cli.utils.counts import counted

People = list[tuple[str, "str | None"]]  # (path, caption) of each image

HOW = "Drag the joints onto the person; drag a limb to move the whole figure."
NEEDED = "This model needs the keypoints of the person. "
NOT_NEEDED = "Not needed, except to cut the person out of a larger image. "
FOUND = "Found by the keypoint estimator. Drag joints that are wrong."
NOT_FOUND = "The keypoint estimator found no person. "
KNOWN = "Known from the example."
VIEWS = "The model takes them together. For another person, clear them first."

# JavaScript functions that change the images in the browser alone: an answer of Python would lose
# an image that was dropped meanwhile. A caption marks an image that any image without one replaces.
_OWN = "const own = (images ?? []).filter(({ caption }) => !caption);"
MARK_REPLACEABLE = (
    "(images) => [(images ?? []).map((image) => ({ ...image, caption: 'replaceable' }))]"
)
REPLACE_MARKED = (
    f"(images) => {{ {_OWN} return own.length && own.length < images.length ? [own] : undefined }}"
)
SHOW_EXAMPLE = f"(example, images) => {{ {_OWN} return [own.length ? own : example] }}"


def images_handler(
    model_lock: threading.Lock, estimator: Estimator, examples: Examples
) -> Callable[..., tuple[Any, ...]]:
    """(people, keypoints) -> (status, keypoints, number of views), after images were added or
    removed. A broken image is reported at once."""

    def inspect(people: People | None, keypoints: str | None) -> tuple[Any, ...]:
        names = [Path(path).name for path, _ in people or []]
        try:
            before = person_views.from_json(keypoints)
            views: dict[str, View] = {}
            at = before.at
            for path in checked([path for path, _ in people or []]):
                key = person_views.key_of(path)
                view = before[key]
                if view is None:
                    at = len(views)
                    view = _located(path, key, model_lock, estimator, examples)
                views[key] = view
            answer = person_views.to_json(PersonViews(tuple(views.values()), at))
            return "", answer, _number(len(views))
        except Exception as err:
            return failed(err, names=names), gr.skip(), ""

    return inspect


def _number(number: int) -> str:
    return note(f"{number} views of one person", VIEWS) if number > 1 else ""


def _located(
    path: Path, key: str, model_lock: threading.Lock, estimator: Estimator, examples: Examples
) -> View:
    """A new view, with the keypoints of the dataset for an example, else those of the estimator if
    the model needs keypoints."""
    view = person_views.view_of(path, key)
    known = examples.keypoints(key)
    if known is not None:
        return replace(view, places=known, note=KNOWN)
    if not estimator.needed:
        return replace(view, note=NOT_NEEDED + HOW)
    with model_lock:
        found = estimator.find(path)
    if found is not None:
        return replace(view, places=found, found=found, note=FOUND)
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
            images = {person_views.key_of(Path(path)): Path(path) for path, _ in people or []}
            views = [view for key in images if (view := known[key])]
            if not files or not views or len(views) < len(images):
                raise XmdptError("no image to which these keypoints belong", "drop an image first")
            if len(files) == 1:
                shown = known.views[known.at]
                views = [shown if shown.key in images else views[0]]
            if len(files) != len(views):
                raise XmdptError(
                    f"{len(files)} files of keypoints for {counted(len(views), 'image')}",
                    "drop one for each image, in their order, or one for the image that is shown",
                )
            notes = []
            loaded: dict[str, View] = {}
            for file, view in zip(map(Path, files), views, strict=True):
                points, text = keypoints_of(file, images[view.key])
                loaded[view.key] = replace(
                    view,
                    places=points,
                    placed=len(JOINTS),
                    note=text.replace(file.name, short(file.name)) + ".",
                    loaded=True,
                )
                notes.append(text)
            changed = tuple(loaded.get(view.key, view) for view in known.views)
            answer = person_views.to_json(PersonViews(changed, known.at))
            return answer, note("; ".join(notes), names=names), None
        except Exception as err:
            return gr.skip(), failed(err, names=names), None

    return load


def example_handler(examples: Examples) -> Callable[[Any], tuple[Any, ...]]:
    """Number of an example -> (people, status)."""

    def load(number: Any) -> tuple[Any, ...]:
        try:
            index = _integer(number)
            if index is None or not 0 <= index < len(examples.people):
                raise XmdptError("no such example", "reload the page")
            return [(str(examples.file(index)), f"Test person {index + 1}")], ""
        except Exception as err:
            return gr.skip(), failed(err)

    return load


def _integer(number: Any) -> int | None:
    """An integer that a client sent as a number or as text; None for anything else."""
    try:
        return int(number)
    except (ValueError, TypeError, OverflowError):
        return None
