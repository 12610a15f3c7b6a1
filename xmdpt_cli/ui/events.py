"""Event handlers of the page: generate, stop, and a pose from a file."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.framing import Fit
from xmdpt_cli.pose.from_pose_image import check_joints
from xmdpt_cli.pose.keypoints import JOINTS, Keypoints
from xmdpt_cli.ui import person_views, skeleton
from xmdpt_cli.ui.estimator import Estimator
from xmdpt_cli.ui.examples import Examples
from xmdpt_cli.ui.files import checked, pose_of, save_images
from xmdpt_cli.ui.generation import StoppedError, generate, preview_steps
from xmdpt_cli.ui.html_snippets import failed, film, finished, frame, note, progress
from xmdpt_cli.ui.wording import PLACE, PLACE_ALL

if TYPE_CHECKING:
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline

Stops = dict[str | None, threading.Event]  # session -> stop event of its running generation
MOST_IMAGES = 16  # of one generation
MOST_STEPS = 1000
MOST_PEOPLE = 100  # largest value of "Person, by size"
MOST_SEED = 2**53  # JavaScript's numbers are exact up to here
LARGEST = 1  # the default choice among several people, which needs no OpenPose
# JavaScript: the seed of the next generation. In the browser, so that no answer replaces a seed
# that the user enters while a generation waits.
NEW_SEED = "(seed, random) => (random ? Math.floor(Math.random() * 2 ** 31) : seed)"


def start_handler(stops: Stops) -> Callable[[gr.Request], tuple[Any, ...]]:
    """Disable Generate and Download and enable Stop, at the start of a generation."""

    def start(request: gr.Request) -> tuple[Any, ...]:
        stops[request.session_hash] = threading.Event()
        off = gr.update(interactive=False)
        return off, gr.update(interactive=True), gr.update(value=None, interactive=False)

    return start


def stop_handler(stops: Stops) -> Callable[[gr.Request], Any]:
    """Stop the running generation of a session; its event then shows "Stopped".

    If Gradio cancelled that event, its last progress could be shown after the message.
    """

    def stop(request: gr.Request) -> Any:
        if request.session_hash in stops:
            stops[request.session_hash].set()
        return gr.update(interactive=False)

    return stop


def idle() -> tuple[Any, ...]:
    """Enable Generate and disable Stop, at the end of a generation."""
    return gr.update(interactive=True), gr.update(interactive=False)


def generate_handler(
    pipe: XMDPTPipeline,
    model_lock: threading.Lock,
    stops: Stops,
    estimator: Estimator,
    examples: Examples,
) -> Callable[..., Iterator[tuple[Any, ...]]]:
    """(people, their keypoints, pose, settings) -> (status, images, previews, file to download)."""

    def run(
        people: list[tuple[str, str | None]] | None,
        keypoints: str | None,
        pose: str | None,
        steps: int | None,
        guidance: float | None,
        power: float | None,
        solver: str | None,
        seed: int | None,
        count: int | None,
        fit: Fit,
        person: int | None,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        keep = gr.skip()
        frames: list[str] = []
        names = [Path(path).name for path, _ in people or []]
        shown: Any
        stop = stops.setdefault(request.session_hash, threading.Event())
        try:
            if not people:
                raise XmdptError("no image of a person", "drop one on the left")
            points = skeleton.from_json(pose)
            _within("steps", steps, MOST_STEPS)
            _within("images", count, MOST_IMAGES)
            _within("person", person, MOST_PEOPLE)
            _within("seed", seed, MOST_SEED, 0)
            source = checked([path for path, _ in people])
            source_keypoints = keypoints_known(
                source, person_views.from_json(keypoints), person or LARGEST, estimator, examples
            )
            seed = seed or 0
            yield note("Reading the images"), [], "", keep
            for event in generate(
                pipe,
                model_lock,
                stop,
                source,
                points,
                steps=steps,
                guidance=guidance,
                power=power,
                solver=solver,
                seed=seed,
                num_images=count or 1,
                source_keypoints=source_keypoints,
                fit=fit,
                person=None if person == LARGEST else person,
            ):
                if event.images:
                    files, saved = save_images(event.images, seed)
                    file = gr.update(value=saved, interactive=True)
                    shown = gr.update(value=files, columns=min(2, len(files)))
                    yield finished(event, seed, names), shown, keep, file
                    return
                shown = keep
                if event.preview is not None:
                    if event.step in preview_steps(event.steps):
                        frames.append(frame(event))
                    shown = gr.update(value=[event.preview], columns=1)
                yield progress(event), shown, film(frames), keep
        except StoppedError:
            yield note("Stopped"), keep, keep, keep
        except Exception as err:
            yield failed(err, names=names), keep, keep, keep
        finally:
            stops.pop(request.session_hash, None)

    return run


def _within(name: str, value: int | None, most: int, least: int = 1) -> None:
    if value is not None and not least <= value <= most:
        raise XmdptError(f"{name}: {value} is not between {least} and {most}", "see Settings")


def keypoints_known(
    source: list[Path],
    views: person_views.PersonViews,
    person: int,
    estimator: Estimator,
    examples: Examples,
) -> list[Keypoints | None] | None:
    """The keypoints of each image, as set on the page; None if the pipeline is to detect them.

    An example that the page does not have the keypoints of yet has those of its dataset.
    XmdptError if the model needs keypoints and there is no estimator to detect them.
    """
    known: list[Keypoints | None] = []
    for path in source:
        key = person_views.key_of(path)
        view = views[key]
        if view is not None and view.partly:
            moved = f"{view.placed} of {len(JOINTS)} joints moved"
            raise XmdptError(f"{path.name}: only {moved}", PLACE_ALL)
        points = examples.keypoints(key) if view is None else view.places
        if view is not None and person != LARGEST and not view.moved:
            points = None  # these belong to the largest person, and another one is selected
        if estimator.needed:
            if points is None and estimator.missing:
                raise XmdptError(f"the keypoints of {path.name} are not placed", PLACE)
            if points is not None:
                _check_joints(path.name, points)
        known.append(points)
    return known if any(points is not None for points in known) else None


def _check_joints(name: str, points: Keypoints) -> None:
    try:
        check_joints(points)
    except XmdptError as err:
        raise XmdptError(f"keypoints of {name}: {err.message}", PLACE) from None


def pose_handler(pipe: XMDPTPipeline, model_lock: threading.Lock) -> Callable[..., tuple[Any, ...]]:
    """(file, images of the person) -> (pose as JSON, status, None: clears the file field)."""

    def load(
        path: str | None, people: list[tuple[str, str | None]] | None = None
    ) -> tuple[Any, ...]:
        if not path:
            return gr.skip(), "", None
        try:
            with model_lock:
                points, text = pose_of(Path(path), pipe, Path(people[0][0]) if people else None)
            pose = skeleton.to_json(points)
            skeleton.from_json(pose)  # the same checks as before a generation
            return pose, note(text, names=[Path(path).name]), None
        except Exception as err:
            return gr.skip(), failed(err, "pose", [Path(path).name]), None

    return load
