"""The page as Gradio blocks: person, pose and result."""

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

SEED = 4  # index of the seed among the settings
THUMB = 128  # pixels of the longer side of an example
# errors that Gradio raises for data of a wrong type or number
WRONG_DATA = (
    ComponentProcessingError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
    RecursionError,
)  # fmt: skip

log = logging.getLogger(__name__)


class Page(gr.Blocks):
    """Blocks whose events only receive files below ``folder``, whatever paths a client sends."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder

    async def preprocess_data(self, block_fn: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Check the files among the inputs of an event before Gradio reads them.

        Gradio itself would follow links, open devices and fetch URLs.
        """

        def check(file: dict[str, Any]) -> dict[str, Any]:
            try:
                path = uploaded(file["path"], self.folder, MOST_FILE)
            except XmdptError as err:
                raise gr.Error(f"{err.message}: {err.hint}", print_exception=False) from None
            return {**file, "path": str(path), "url": None}

        try:
            checked = traverse(inputs, check, is_file_obj)
            return await super().preprocess_data(block_fn, checked, *args, **kwargs)
        except gr.Error as err:
            err.print_exception = False
            raise
        except WRONG_DATA as err:  # the page itself never sends such data
            log.info("refused the data of a call (%s)", type(err).__name__)
            message = "the data of this call is of a wrong type or number: reload the page"
            raise gr.Error(message, print_exception=False) from None


def build(pipe: XMDPTPipeline, title: str, examples: Examples, folder: Path) -> gr.Blocks:
    """Build the page of one model, named by ``title``; ``folder`` holds the uploaded files."""
    defaults = pipe.sampling_config()
    model_lock = threading.Lock()  # all sessions share one model
    estimator = Estimator(pipe)
    stops: Stops = {}
    with Page(folder, title="xmdpt", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(header(title, pipe.resolution, pipe.toy))
        with gr.Row(elem_classes="columns"):
            with gr.Column(elem_classes="column", min_width=280, scale=10):
                person = _person(examples, estimator.needed)
                people, keypoints = person.images, person.keypoints
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
                    settings = _settings(pipe, defaults)

        # Each column has its own status: the check of the images may finish after the generation,
        # and must not replace its status.
        internal: dict[str, Any] = {"api_visibility": "private", "queue": False}
        started = go.click(start_handler(stops), outputs=[go, stop, save], **internal)
        generation = started.then(
            generate_handler(pipe, model_lock, stops, estimator),
            inputs=[people, keypoints, pose, *settings],
            outputs=[result_status, result, film, save, settings[SEED]],
            api_name="generate",
            concurrency_id="model",  # one at a time
            concurrency_limit=1,
            show_progress="hidden",
        )
        generation.then(idle, outputs=[go, stop], **internal)
        stop.click(
            stop_handler(stops), outputs=stop, api_name="stop", queue=False, show_progress="hidden"
        )
        people.change(
            images_handler(model_lock, estimator),
            inputs=[people, keypoints],
            outputs=[person.status, keypoints, people, person.number],
            api_name="inspect",
            show_progress="hidden",
        )
        person.examples.click(
            example_handler(examples),
            inputs=person.examples,
            outputs=[people, keypoints, person.status],
            api_name="example",
            show_progress="hidden",
        )
        person.files.upload(
            keypoints_handler(),
            inputs=[person.files, people, keypoints],
            outputs=[keypoints, person.status, person.files],
            api_name="keypoints",
            show_progress="minimal",
        )
        pose_file.upload(
            pose_handler(pipe, model_lock),
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
    number: gr.HTML  # number of views
    examples: gr.HTML
    keypoints: gr.HTML  # keypoints of the images, as JSON
    files: gr.File  # keypoint files


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
    example_people = gr.HTML(
        "",
        html_template=_example_buttons(examples),
        apply_default_css=False,
        js_on_load=skeleton.package_text("examples.js"),
        label="Number of an example person",
        elem_id="examples",
        visible=bool(examples.people),
    )
    keypoints = gr.HTML(
        person_views.to_json(person_views.PersonViews()),
        html_template=skeleton.person_html(open_=needs_keypoints),
        apply_default_css=False,
        js_on_load=skeleton.editor_script(),
        label="Keypoints of the images, as JSON",
        elem_id="keypoints",
    )
    keypoint_files = gr.File(
        label="Keypoints of the images, as files",
        show_label=False,
        file_count="multiple",
        file_types=list(SUFFIXES),
        height=56,
        elem_id="keypoint-files",
    )
    return PersonColumn(people, status, views, example_people, keypoints, keypoint_files)


def _pose(examples: Examples) -> tuple[gr.HTML, gr.HTML, gr.File]:
    """Return the components (pose, status, file to replace the pose)."""
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


def _example_buttons(examples: Examples) -> str:
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


def _settings(pipe: XMDPTPipeline, defaults: Any) -> list[Any]:
    """The settings, in the order of the arguments of ``generate_handler``'s function.

    They have no bounds of Gradio, which reports a value outside of them in a separate window and
    in technical terms.
    """
    small = {"min_width": 110, "scale": 1}
    with gr.Row():
        steps = gr.Number(defaults.steps, label="Steps", precision=0, **small)
        solvers = list(pipe.solvers)
        solver = gr.Dropdown(
            solvers, value=defaults.solver, label="Solver", filterable=False, **small
        )
    with gr.Row():
        guidance = gr.Number(
            defaults.guidance,
            label="Guidance",
            info="How closely inputs are followed; 1: off.",
            step=0.25,
            **small,
        )
        power = gr.Number(
            defaults.power,
            label="Guidance power",
            info="The larger, the later guidance sets in.",
            step=0.1,
            **small,
        )
    with gr.Row():
        seed = gr.Number(defaults.seed, label="Seed", precision=0, **small)
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
            info="Which of several people to use; 1: the largest.",
            precision=0,
            **small,
        )
    return [steps, guidance, power, solver, seed, random, count, fit, person]
