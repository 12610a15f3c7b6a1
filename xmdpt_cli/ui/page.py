"""The page: a person, a pose, the result. Gradio's blocks, and what its events do."""

from __future__ import annotations

import base64
import html
import io
import logging
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import decode_image
from xmdpt_cli.ui import skeleton
from xmdpt_cli.ui.drawing import Event, Pipeline, draw
from xmdpt_cli.ui.files import KEYPOINT_FILES, read_keypoints, read_pictures
from xmdpt_cli.ui.poses import PRESETS

MOST_PICTURES = 16  # of one drawing
MOST_STEPS = 1000
THUMB = 96  # pixels of a preview's height in the row of steps
TOY = "TOY model: made with toy networks. It says nothing about results on photographs."

log = logging.getLogger(__name__)


def build(pipe: Pipeline, title: str) -> gr.Blocks:
    """The page for one model. ``title`` says which one."""
    own = pipe.recipe()
    begin = skeleton.to_json_of(PRESETS[0])
    with gr.Blocks(title="xmdpt", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(_header(title, pipe))
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
        begun = go.click(_working, outputs=[go, stop, save], **quietly)
        drawing = begun.then(
            _drawer(pipe),
            inputs=[people, pose, *settings],
            outputs=[said, result, film, save],
            api_name="draw",
            concurrency_id="model",  # one after the other: there is one model
            concurrency_limit=1,
            show_progress="hidden",
        )
        drawing.then(_idle, outputs=[go, stop], **quietly)
        stop.click(
            lambda: (_note("Stopped"), *_idle()),
            outputs=[said, go, stop],
            cancels=drawing,
            **quietly,
        )
        people.upload(
            _guarded(_looked_at),
            inputs=people,
            outputs=said,
            api_name="look",
            show_progress="hidden",
        )
        pose_file.upload(
            _pose_taker(pipe),
            inputs=pose_file,
            outputs=[pose, pose_said, pose_file],
            api_name="pose",
            concurrency_id="model",
            show_progress="minimal",
        )
    return page


def _settings(pipe: Pipeline, own: Any) -> list[Any]:
    """In the order in which ``_drawer`` takes them; the values are the model's own."""
    small = {"min_width": 110, "scale": 1}
    with gr.Row():
        steps = gr.Number(
            own.steps, label="Steps", precision=0, minimum=1, maximum=MOST_STEPS, **small
        )
        solvers = list(pipe.solvers)
        solver = gr.Dropdown(solvers, value=own.solver, label="Solver", filterable=False, **small)
    with gr.Row():
        guidance = gr.Number(own.guidance, label="Guidance", step=0.25, **small)
        power = gr.Number(own.power, label="Guidance power", step=0.1, **small)
    with gr.Row():
        seed = gr.Number(own.seed, label="Seed", precision=0, minimum=0, **small)
        count = gr.Number(
            1, label="Pictures", precision=0, minimum=1, maximum=MOST_PICTURES, **small
        )
    return [steps, guidance, power, solver, seed, count]


def _working() -> tuple[Any, ...]:
    """Draw, Stop and Download while a picture is drawn."""
    off = gr.update(interactive=False)
    return off, gr.update(interactive=True), gr.update(value=None, interactive=False)


def _idle() -> tuple[Any, ...]:
    """Draw and Stop otherwise."""
    return gr.update(interactive=True), gr.update(interactive=False)


def _drawer(pipe: Pipeline) -> Callable[..., Iterator[tuple[Any, ...]]]:
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
    ) -> Iterator[tuple[Any, ...]]:
        keep = gr.skip()
        film: list[str] = []
        shown: Any
        try:
            if not people:
                raise XmdptError("no picture of a person", "drop one on the left")
            points = skeleton.from_json(pose)
            source = read_pictures([path for path, _ in people])
            yield _note("Looking at the pictures"), [], "", keep
            for event in draw(
                pipe,
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
                    yield _finished(event, seed or 0), shown, keep, file
                    return
                shown = keep
                if event.preview is not None:
                    film.append(_frame(event))
                    shown = gr.update(value=[event.preview], columns=1)
                yield _progress(event), shown, f'<div class="film">{"".join(film)}</div>', keep
        except Exception as err:
            yield _failed(err), keep, keep, keep

    return press


def _pose_taker(pipe: Pipeline) -> Callable[[str | None], tuple[Any, ...]]:
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
                points = pipe.find_pose(decode_image(file, file.name))
                said = f"Pose found in {file.name}."
            text = skeleton.to_json(points)
            skeleton.from_json(text)  # as strict as when it is drawn
            return text, _note(said), None
        except Exception as err:
            return gr.skip(), _failed(err), None

    return take


def _looked_at(people: list[tuple[str, str | None]] | None) -> str:
    """Says at once that a picture is broken, not only when it is drawn."""
    read_pictures([path for path, _ in people or []])
    return ""


def _guarded(act: Callable[..., str]) -> Callable[..., str]:
    def guarded(*inputs: Any) -> str:
        try:
            return act(*inputs)
        except Exception as err:
            return _failed(err)

    return guarded


def _failed(err: Exception) -> str:
    """A readable message for the page; what is no user's doing goes to the log as well."""
    if isinstance(err, XmdptError):
        return _note(err.message[:1].upper() + err.message[1:], err.hint, "error")
    log.exception("while drawing", exc_info=err)
    said = f"{type(err).__name__}: {err}"
    return _note("A bug of ours, or no memory left", f"{said}; the server's log says more", "error")


def _note(text: str, hint: str = "", kind: str = "note") -> str:
    more = f"<span>{html.escape(hint)}</span>" if hint else ""
    role = "alert" if kind == "error" else "status"
    return f'<div class="{kind}" role="{role}"><b>{html.escape(text)}</b>{more}</div>'


def _progress(event: Event) -> str:
    left = event.seconds / event.step * (event.steps - event.step)
    time = f", {left:.0f} s left" if event.step < event.steps and event.seconds > 1 else ""
    return (
        f'<div class="note" role="status"><b>Step {event.step} of {event.steps}{time}</b>'
        f'<progress value="{event.step}" max="{event.steps}"></progress></div>'
    )


def _finished(event: Event, seed: int) -> str:
    number = len(event.pictures)
    what = "1 picture" if number == 1 else f"{number} pictures"
    notes = [f"{event.steps} steps", f"seed {seed}", *event.notes]
    return _note(f"{what} in {event.seconds:.1f} s", ", ".join(notes))


def _frame(event: Event) -> str:
    assert event.preview is not None
    small = event.preview.convert("RGB")
    small.thumbnail((THUMB * 2, THUMB * 2))
    stream = io.BytesIO()
    small.save(stream, format="JPEG", quality=85)
    data = base64.b64encode(stream.getvalue()).decode()
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" alt="step {event.step}">'
        f"<figcaption>{event.step}</figcaption></figure>"
    )


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


def _header(title: str, pipe: Pipeline) -> str:
    toy = f'<p class="toy" role="note">{TOY}</p>' if pipe.toy else ""
    what = f"{html.escape(title)}, {pipe.resolution} px"
    return f"<header><h1>xmdpt</h1><p>{what}</p></header>{toy}"
