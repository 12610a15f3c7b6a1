"""The page: a person, a pose, the result. Gradio's blocks, and what its events do."""

from __future__ import annotations

import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import decode_image
from xmdpt_cli.ui import skeleton
from xmdpt_cli.ui.drawing import Pipeline, StoppedError, draw
from xmdpt_cli.ui.files import KEYPOINT_FILES, read_keypoints, read_pictures
from xmdpt_cli.ui.poses import PRESETS
from xmdpt_cli.ui.said import failed, finished, frame, header, note, progress

Stops = dict[str | None, threading.Event]  # of the drawings on the way, by a page's session
MOST_PICTURES = 16  # of one drawing
MOST_STEPS = 1000


def build(pipe: Pipeline, title: str) -> gr.Blocks:
    """The page for one model. ``title`` says which one."""
    own = pipe.recipe()
    turn = threading.Lock()  # there is one model
    stops: Stops = {}
    begin = skeleton.to_json_of(PRESETS[0])
    with gr.Blocks(title="xmdpt", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(header(title, pipe.resolution, pipe.toy))
        with gr.Row(elem_classes="columns"):
            with gr.Column(elem_classes="column", min_width=280, scale=10):
                gr.HTML("<h2>Person</h2>")
                people = gr.Gallery(
                    label="Pictures of one person",
                    show_label=False,
                    type="filepath",
                    file_types=["image"],
                    sources=["upload", "clipboard"],
                    interactive=True,
                    columns=2,
                    fit_columns=False,
                    object_fit="contain",
                    buttons=[],
                    elem_id="people",
                )
                with gr.Accordion("Settings", open=True, elem_id="settings"):
                    settings = _settings(pipe, own)
            with gr.Column(elem_classes="column", min_width=280, scale=13):
                gr.HTML("<h2>Pose</h2>")
                pose = gr.HTML(
                    begin,
                    html_template=skeleton.editor_html(),
                    apply_default_css=False,
                    js_on_load=skeleton.editor_script(),
                    label="Pose, as JSON",
                    elem_id="pose",
                )
                pose_file = gr.File(
                    label="Pose of a photograph, or a keypoints file",
                    show_label=False,
                    file_types=["image", *KEYPOINT_FILES],
                    height=56,
                    elem_id="pose-file",
                )
                pose_said = gr.HTML(elem_id="pose-said")
            with gr.Column(elem_classes="column", min_width=280, scale=11):
                gr.HTML("<h2>Result</h2>")
                with gr.Row(elem_id="actions"):
                    go = gr.Button("Draw", variant="primary", elem_id="draw", scale=3)
                    stop = gr.Button(
                        "Stop", elem_id="stop", scale=1, min_width=80, interactive=False
                    )
                said = gr.HTML(elem_id="said")
                result = gr.Gallery(
                    label="Result",
                    show_label=False,
                    format="png",
                    interactive=False,
                    object_fit="contain",
                    columns=1,
                    buttons=["fullscreen"],
                    elem_id="result",
                )
                film = gr.HTML(elem_id="film")
                save = gr.DownloadButton("Download", interactive=False, elem_id="download")

        quietly: dict[str, Any] = {"api_visibility": "private", "queue": False}
        begun = go.click(_starter(stops), outputs=[go, stop, save], **quietly)
        drawing = begun.then(
            _drawer(pipe, turn, stops),
            inputs=[people, pose, *settings],
            outputs=[said, result, film, save],
            api_name="draw",
            concurrency_id="model",  # one after the other
            concurrency_limit=1,
            show_progress="hidden",
        )
        drawing.then(_idle, outputs=[go, stop], **quietly)
        stop.click(
            _stopper(stops), outputs=stop, api_name="stop", queue=False, show_progress="hidden"
        )
        people.upload(
            _looked_at,
            inputs=people,
            outputs=said,
            api_name="look",
            show_progress="hidden",
        )
        pose_file.upload(
            _pose_taker(pipe, turn),
            inputs=pose_file,
            outputs=[pose, pose_said, pose_file],
            api_name="pose",
            concurrency_id="model",
            show_progress="minimal",
        )
    return page


def _settings(pipe: Pipeline, own: Any) -> list[Any]:
    """In the order in which ``_drawer`` takes them; the values are the model's own.

    Without Gradio's bounds: it says a broken one in a window of its own, and in code's words.
    """
    small = {"min_width": 110, "scale": 1}
    with gr.Row():
        steps = gr.Number(own.steps, label="Steps", precision=0, **small)
        solvers = list(pipe.solvers)
        solver = gr.Dropdown(solvers, value=own.solver, label="Solver", filterable=False, **small)
    with gr.Row():
        guidance = gr.Number(own.guidance, label="Guidance", step=0.25, **small)
        power = gr.Number(own.power, label="Guidance power", step=0.1, **small)
    with gr.Row():
        seed = gr.Number(own.seed, label="Seed", precision=0, **small)
        count = gr.Number(1, label="Pictures", precision=0, **small)
    return [steps, guidance, power, solver, seed, count]


def _starter(stops: Stops) -> Callable[[gr.Request], tuple[Any, ...]]:
    """Draw, Stop and Download while a picture is drawn."""

    def start(request: gr.Request) -> tuple[Any, ...]:
        stops[request.session_hash] = threading.Event()
        off = gr.update(interactive=False)
        return off, gr.update(interactive=True), gr.update(value=None, interactive=False)

    return start


def _stopper(stops: Stops) -> Callable[[gr.Request], Any]:
    """The drawing itself says that it has stopped: Gradio's own way of cancelling an event leaves
    it to chance whether its last progress is shown after that."""

    def stop(request: gr.Request) -> Any:
        if request.session_hash in stops:
            stops[request.session_hash].set()
        return gr.update(interactive=False)

    return stop


def _idle() -> tuple[Any, ...]:
    """Draw and Stop otherwise."""
    return gr.update(interactive=True), gr.update(interactive=False)


def _drawer(
    pipe: Pipeline, turn: threading.Lock, stops: Stops
) -> Callable[..., Iterator[tuple[Any, ...]]]:
    """(people, pose, settings) -> (what is said, pictures, row of previews, file to save)."""

    def press(
        people: list[tuple[str, str | None]] | None,
        pose: str | None,
        steps: int | None,
        guidance: float | None,
        power: float | None,
        solver: str | None,
        seed: int | None,
        count: int | None,
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
            source = read_pictures([path for path, _ in people])
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


def _pose_taker(pipe: Pipeline, turn: threading.Lock) -> Callable[[str | None], tuple[Any, ...]]:
    """A dropped file -> (the pose as text, what is said, None: there is room for the next)."""

    def take(path: str | None) -> tuple[Any, ...]:
        if not path:
            return gr.skip(), "", None
        file = Path(path)
        try:
            if file.suffix.lower() in KEYPOINT_FILES:
                points, read = read_keypoints(file)
                said = f"Pose of {read}."
            else:
                picture = decode_image(file, file.name)
                with turn:
                    points = pipe.find_pose(picture)
                said = f"Pose found in {file.name}."
            text = skeleton.to_json(points)
            skeleton.from_json(text)  # as strict as when it is drawn
            return text, note(said), None
        except Exception as err:
            return gr.skip(), failed(err), None

    return take


def _looked_at(people: list[tuple[str, str | None]] | None) -> str:
    """Says at once that a picture is broken, not only when it is drawn."""
    try:
        read_pictures([path for path, _ in people or []])
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
