"""The page: a person, a pose, the result, as Gradio's blocks."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.exceptions import ComponentProcessingError
from gradio_client.utils import is_file_obj, traverse

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.formats import SUFFIXES
from xmdpt_cli.pose.framing import FITS
from xmdpt_cli.ui import person_views, skeleton
from xmdpt_cli.ui.estimator import Estimator
from xmdpt_cli.ui.events import (
    Stops,
    generate_handler,
    idle,
    pose_handler,
    start_handler,
    stop_handler,
)
from xmdpt_cli.ui.examples import Examples
from xmdpt_cli.ui.html_snippets import header
from xmdpt_cli.ui.people import example_handler, images_handler, keypoints_handler
from xmdpt_cli.ui.poses import PRESETS
from xmdpt_cli.ui.request_filter import MOST_FILE
from xmdpt_cli.ui.uploads import uploaded

if TYPE_CHECKING:
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline

SEED = 4  # of the settings
THUMB = 128  # pixels of the longer side of an example
# what Gradio raises of data of a wrong type or number
WRONG_DATA = (
    ComponentProcessingError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
    RecursionError,
)  # fmt: skip

log = logging.getLogger(__name__)


class Page(gr.Blocks):
    """Blocks whose events are given files below ``folder`` alone, whatever a client names."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder

    async def preprocess_data(self, block_fn: Any, inputs: Any, *others: Any, **more: Any) -> Any:
        """Before Gradio's own look at the inputs of an event: it follows no links, opens devices,
        and fetches URLs."""

        def check(file: dict[str, Any]) -> dict[str, Any]:
            try:
                path = uploaded(file["path"], self.folder, MOST_FILE)
            except XmdptError as err:
                raise gr.Error(f"{err.message}: {err.hint}", print_exception=False) from None
            return {**file, "path": str(path), "url": None}

        try:
            checked = traverse(inputs, check, is_file_obj)
            return await super().preprocess_data(block_fn, checked, *others, **more)
        except gr.Error as err:
            err.print_exception = False
            raise
        except WRONG_DATA as err:  # no page of ours sends it
            log.info("refused the data of a call (%s)", type(err).__name__)
            said = "the data of this call is of a wrong type or number: reload the page"
            raise gr.Error(said, print_exception=False) from None


def build(pipe: XMDPTPipeline, title: str, examples: Examples, folder: Path) -> gr.Blocks:
    """The page for one model. ``title`` says which one; ``folder`` holds what is uploaded."""
    own = pipe.sampling_config()
    turn = threading.Lock()  # there is one model
    estimator = Estimator(pipe)
    stops: Stops = {}
    with Page(folder, title="xmdpt", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(header(title, pipe.resolution, pipe.toy))
        with gr.Row(elem_classes="columns"):
            with gr.Column(elem_classes="column", min_width=280, scale=10):
                person = _person(examples, estimator.needed)
                people, placed = person.images, person.keypoints
            with gr.Column(elem_classes="column", min_width=280, scale=13):
                pose, pose_status, pose_file = _pose(examples)
            with gr.Column(elem_classes="column", min_width=280, scale=11):
                gr.HTML("<h2>Result</h2>")
                with gr.Row(elem_id="actions"):
                    go = gr.Button("Generate", variant="primary", elem_id="generate", scale=3)
                    stop = gr.Button(
                        "Stop", elem_id="stop", scale=1, min_width=80, interactive=False
                    )
                result_status = gr.HTML(elem_id="result-status")
                result = gr.Gallery(
                    label="Result",
                    show_label=False,
                    format="png",
                    interactive=False,
                    object_fit="contain",
                    columns=1,
                    buttons=["download", "fullscreen"],
                    elem_id="result",
                )
                film = gr.HTML(elem_id="film")
                save = gr.DownloadButton("Download", interactive=False, elem_id="download")
                with gr.Accordion("Settings", open=True, elem_id="settings"):
                    settings = _settings(pipe, own)

        # Each column has its own status: an answer about the images may arrive after the result,
        # and must not replace the message about it.
        quietly: dict[str, Any] = {"api_visibility": "private", "queue": False}
        begun = go.click(start_handler(stops), outputs=[go, stop, save], **quietly)
        generation = begun.then(
            generate_handler(pipe, turn, stops, estimator),
            inputs=[people, placed, pose, *settings],
            outputs=[result_status, result, film, save, settings[SEED]],
            api_name="generate",
            concurrency_id="model",  # one after the other
            concurrency_limit=1,
            show_progress="hidden",
        )
        generation.then(idle, outputs=[go, stop], **quietly)
        stop.click(
            stop_handler(stops), outputs=stop, api_name="stop", queue=False, show_progress="hidden"
        )
        people.change(
            images_handler(turn, estimator),
            inputs=[people, placed],
            outputs=[person.status, placed, people, person.number],
            api_name="look",
            show_progress="hidden",
        )
        person.examples.click(
            example_handler(examples),
            inputs=person.examples,
            outputs=[people, placed, person.status],
            api_name="example",
            show_progress="hidden",
        )
        person.files.upload(
            keypoints_handler(),
            inputs=[person.files, people, placed],
            outputs=[placed, person.status, person.files],
            api_name="keypoints",
            show_progress="minimal",
        )
        pose_file.upload(
            pose_handler(pipe, turn),
            inputs=[pose_file, people],
            outputs=[pose, pose_status, pose_file],
            api_name="pose",
            concurrency_id="model",
            show_progress="minimal",
        )
    return page


@dataclass(frozen=True)
class PersonColumn:
    """The components of the Person column."""

    images: gr.Gallery
    status: gr.HTML
    number: gr.HTML  # how many views the images are
    examples: gr.HTML
    keypoints: gr.HTML  # of the images, as JSON
    files: gr.File  # of keypoints


def _person(examples: Examples, needs_keypoints: bool) -> PersonColumn:
    gr.HTML("<h2>Person</h2>")
    people = gr.Gallery(
        label="Images of one person",
        show_label=False,
        type="filepath",
        file_types=["image"],
        sources=["upload", "clipboard"],
        interactive=True,
        columns=3,
        fit_columns=False,
        object_fit="contain",
        buttons=[],
        elem_id="people",
    )
    status = gr.HTML(elem_id="person-status")
    views = gr.HTML(elem_id="views")
    strip = gr.HTML(
        "",
        html_template=_strip(examples),
        apply_default_css=False,
        js_on_load=skeleton.text_beside("examples.js"),
        label="Number of an example person",
        elem_id="examples",
        visible=bool(examples.people),
    )
    placed = gr.HTML(
        person_views.to_json(person_views.PersonViews()),
        html_template=skeleton.person_html(open_=needs_keypoints),
        apply_default_css=False,
        js_on_load=skeleton.editor_script(),
        label="Keypoints of the images, as JSON",
        elem_id="placed",
    )
    stands = gr.File(
        label="Keypoints of the images, as files",
        show_label=False,
        file_count="multiple",
        file_types=list(SUFFIXES),
        height=56,
        elem_id="stands",
    )
    return PersonColumn(people, status, views, strip, placed, stands)


def _pose(examples: Examples) -> tuple[gr.HTML, gr.HTML, gr.File]:
    """(pose, status of the file, file that replaces the pose)."""
    gr.HTML("<h2>Pose</h2>")
    pose = gr.HTML(
        skeleton.to_json_of(PRESETS[0]),
        html_template=skeleton.editor_html(examples.poses),
        apply_default_css=False,
        js_on_load=skeleton.editor_script(),
        label="Pose, as JSON",
        elem_id="pose",
    )
    status = gr.HTML(elem_id="pose-status")
    file = gr.File(
        label="Pose of a photograph, or a keypoints file",
        show_label=False,
        file_types=["image", *SUFFIXES],
        height=56,
        elem_id="pose-file",
    )
    return pose, status, file


def _strip(examples: Examples) -> str:
    """The example people as buttons."""
    buttons = "".join(
        f'<button type="button" data-number="{i}" title="Test person {i + 1}"'
        f' aria-label="Test person {i + 1}">'
        f'<img src="{person_views.data_url(person.image, THUMB)}" alt=""></button>'
        for i, person in enumerate(examples.people)
    )
    return (
        '<p class="caption">or take one of the test set</p>'
        f'<div class="examples" role="group" aria-label="example people">{buttons}</div>'
    )


def _settings(pipe: XMDPTPipeline, own: Any) -> list[Any]:
    """In the order in which ``generate_handler`` takes them; the values are the model's own.

    Without Gradio's bounds: it says a broken one in a window of its own, and in code's words.
    """
    small = {"min_width": 110, "scale": 1}
    with gr.Row():
        steps = gr.Number(own.steps, label="Steps", precision=0, **small)
        solvers = list(pipe.solvers)
        solver = gr.Dropdown(solvers, value=own.solver, label="Solver", filterable=False, **small)
    with gr.Row():
        guidance = gr.Number(
            own.guidance,
            label="Guidance",
            info="How closely inputs are followed; 1: off.",
            step=0.25,
            **small,
        )
        power = gr.Number(
            own.power,
            label="Guidance power",
            info="The larger, the later guidance sets in.",
            step=0.1,
            **small,
        )
    with gr.Row():
        seed = gr.Number(own.seed, label="Seed", precision=0, **small)
        count = gr.Number(1, label="Images", precision=0, **small)
    random = gr.Checkbox(False, label="New random seed each time", elem_id="random")
    with gr.Row():
        fit = gr.Dropdown(
            list(FITS),
            value="auto",
            label="Fit",
            info="Cut, pad or squash an image of another shape.",
            filterable=False,
            **small,
        )
        person = gr.Number(
            1,
            label="Person, by size",
            info="Whom to take of several people; 1: the largest.",
            precision=0,
            **small,
        )
    return [steps, guidance, power, solver, seed, random, count, fit, person]
