"""What happens when something is pressed or dropped: the page's events, as functions."""

from __future__ import annotations

import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from xmdpt_cli.data.framing import Fit
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.ui import skeleton
from xmdpt_cli.ui.drawing import StoppedError, draw
from xmdpt_cli.ui.files import checked, pose_of
from xmdpt_cli.ui.said import failed, finished, frame, note, progress

if TYPE_CHECKING:
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline

Stops = dict[str | None, threading.Event]  # of the drawings on the way, by a page's session
MOST_PICTURES = 16  # of one drawing
MOST_STEPS = 1000
MOST_PEOPLE = 100  # among whom one is chosen
LARGEST = 1  # of several people: taken unasked, which needs no OpenPose


def starter(stops: Stops) -> Callable[[gr.Request], tuple[Any, ...]]:
    """Draw, Stop and Download while a picture is drawn."""

    def start(request: gr.Request) -> tuple[Any, ...]:
        stops[request.session_hash] = threading.Event()
        off = gr.update(interactive=False)
        return off, gr.update(interactive=True), gr.update(value=None, interactive=False)

    return start


def stopper(stops: Stops) -> Callable[[gr.Request], Any]:
    """The drawing itself says that it has stopped: Gradio's own way of cancelling an event leaves
    it to chance whether its last progress is shown after that."""

    def stop(request: gr.Request) -> Any:
        if request.session_hash in stops:
            stops[request.session_hash].set()
        return gr.update(interactive=False)

    return stop


def idle() -> tuple[Any, ...]:
    """Draw and Stop otherwise."""
    return gr.update(interactive=True), gr.update(interactive=False)


def drawer(
    pipe: XMDPTPipeline, turn: threading.Lock, stops: Stops
) -> Callable[..., Iterator[tuple[Any, ...]]]:
    """(people, keypoints, pose, settings) -> (what is said, pictures, previews, file to save)."""

    def press(
        people: list[tuple[str, str | None]] | None,
        stands: list[str] | None,
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
        film: list[str] = []
        shown: Any
        stop = stops.setdefault(request.session_hash, threading.Event())
        try:
            if not people:
                raise XmdptError("no picture of a person", "drop one on the left")
            points = skeleton.from_json(pose)
            _within("steps", steps, MOST_STEPS)
            _within("pictures", count, MOST_PICTURES)
            _within("person", person, MOST_PEOPLE)
            source = checked([path for path, _ in people])
            if stands and len(stands) != len(source):
                raise XmdptError(
                    f"{len(stands)} files of keypoints for {len(source)} pictures",
                    "drop one for each picture, in their order, or none",
                )
            yield note("Looking at the pictures"), [], "", keep
            for event in draw(
                pipe,
                turn,
                stop,
                source,
                points,
                steps=steps,
                guidance=guidance,
                power=power,
                solver=solver,
                seed=seed or 0,
                num_images=count or 1,
                source_keypoints=stands or None,
                fit=fit,
                person=None if person == LARGEST else person,
            ):
                if event.pictures:
                    file = gr.update(value=_to_save(event.pictures, seed or 0), interactive=True)
                    shown = gr.update(value=event.pictures, columns=min(2, len(event.pictures)))
                    yield finished(event, seed or 0), shown, keep, file
                    return
                shown = keep
                if event.preview is not None:
                    film.append(frame(event))
                    shown = gr.update(value=[event.preview], columns=1)
                yield progress(event), shown, f'<div class="film">{"".join(film)}</div>', keep
        except StoppedError:
            yield note("Stopped"), keep, keep, keep
        except Exception as err:
            yield failed(err), keep, keep, keep
        finally:
            stops.pop(request.session_hash, None)

    return press


def _within(name: str, value: int | None, most: int) -> None:
    if value is not None and not 1 <= value <= most:
        raise XmdptError(f"{name}: {value} is not between 1 and {most}")


def pose_taker(
    pipe: XMDPTPipeline, turn: threading.Lock
) -> Callable[[str | None], tuple[Any, ...]]:
    """A dropped file -> (the pose as text, what is said, None: there is room for the next)."""

    def take(path: str | None) -> tuple[Any, ...]:
        if not path:
            return gr.skip(), "", None
        try:
            with turn:
                points, said = pose_of(Path(path), pipe)
            text = skeleton.to_json(points)
            skeleton.from_json(text)  # as strict as when it is drawn
            return text, note(said), None
        except Exception as err:
            return gr.skip(), failed(err), None

    return take


def looked_at(people: list[tuple[str, str | None]] | None) -> str:
    """Says at once that a picture is broken, not only when it is drawn."""
    try:
        checked([path for path, _ in people or []])
    except Exception as err:
        return failed(err)
    return ""


def _to_save(pictures: list[Image.Image], seed: int) -> str:
    """One PNG, or a ZIP of several: a file of its own name, so that browsers keep it."""
    folder = Path(tempfile.mkdtemp(prefix="xmdpt-ui-"))
    name = f"xmdpt-seed{seed}"
    files = [folder / f"{name}{f'-{i}' if i else ''}.png" for i in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        picture.save(file, format="PNG")
    if len(files) == 1:
        return str(files[0])
    packed = folder / f"{name}.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for file in files:
            archive.write(file, file.name)
    return str(packed)
