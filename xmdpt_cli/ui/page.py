"""The page as Gradio blocks: its components and its events."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.exceptions import ComponentProcessingError
from gradio_client.utils import is_file_obj, traverse

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.sampling.student import student_summary
from xmdpt_cli.ui.components import (
    PersonColumn,
    PoseColumn,
    ResultColumn,
    person_column,
    pose_column,
    result_column,
)
from xmdpt_cli.ui.estimator import Estimator
from xmdpt_cli.ui.events import (
    NEW_SEED,
    Stops,
    generate_handler,
    idle,
    pose_handler,
    start_handler,
    stop_handler,
)
from xmdpt_cli.ui.examples import Examples
from xmdpt_cli.ui.html_snippets import header
from xmdpt_cli.ui.people import (
    MARK_REPLACEABLE,
    REPLACE_MARKED,
    SHOW_EXAMPLE,
    example_handler,
    images_handler,
    keypoints_handler,
)
from xmdpt_cli.ui.request_filter import MOST_FILE
from xmdpt_cli.ui.uploads import uploaded

if TYPE_CHECKING:
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline

# errors that Gradio raises for data of a wrong type or number
WRONG_DATA = (
    ComponentProcessingError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
    RecursionError,
)  # fmt: skip

PRIVATE: dict[str, Any] = {"api_visibility": "private"}  # an event that clients cannot see

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
            if block_fn.fn is None:
                raise gr.Error("this event runs in the browser alone")
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
    model_lock = threading.Lock()  # all sessions share one model
    estimator = Estimator(pipe)
    with Page(folder, title="xmdpt", analytics_enabled=False, fill_width=True) as page:
        distilled = pipe.sampler.metadata.get("distilled")
        student = student_summary(distilled) if distilled else ""
        gr.HTML(header(title, pipe.resolution, pipe.toy, student))
        with gr.Row(elem_classes="columns"):
            with gr.Column(elem_classes="column", min_width=280, scale=10):
                person = person_column(examples, estimator.needed)
            with gr.Column(elem_classes="column", min_width=280, scale=13):
                pose = pose_column(examples)
            with gr.Column(elem_classes="column", min_width=280, scale=11):
                result = result_column(pipe)
        _connect_result(pipe, model_lock, estimator, examples, person, pose, result)
        _connect_person(model_lock, estimator, examples, person)
        pose.file.upload(
            pose_handler(pipe, model_lock),
            inputs=[pose.file, person.images],
            outputs=[pose.pose, pose.status, pose.file],
            api_name="pose",
            concurrency_id="model",
            show_progress="minimal",
            trigger_mode="multiple",  # the last file is loaded last
        )
    return page


# A user can edit a component while an event is pending whose answer contains it. So no answer
# contains the seed or the images of the person, which change in the browser alone, and the person
# editor merges its answers (see person_views.py). A pose file replaces the pose, and undo restores
# the previous one. Each column has its own status, so that no event replaces that of another.


def _connect_result(
    pipe: XMDPTPipeline,
    model_lock: threading.Lock,
    estimator: Estimator,
    examples: Examples,
    person: PersonColumn,
    pose: PoseColumn,
    result: ResultColumn,
) -> None:
    stops: Stops = {}
    generation = (
        result.generate.click(
            None, [result.seed, result.random], result.seed, js=NEW_SEED, **PRIVATE
        )
        .then(
            start_handler(stops),
            outputs=[result.generate, result.stop, result.download],
            queue=False,
            **PRIVATE,
        )
        .then(
            generate_handler(pipe, model_lock, stops, estimator, examples),
            inputs=[person.images, person.keypoints, pose.pose, *result.settings],
            outputs=[result.status, result.images, result.film, result.download],
            api_name="generate",
            concurrency_id="model",  # one at a time
            concurrency_limit=1,
            show_progress="hidden",
        )
    )
    generation.then(idle, outputs=[result.generate, result.stop], queue=False, **PRIVATE)
    result.stop.click(
        stop_handler(stops),
        outputs=result.stop,
        api_name="stop",
        queue=False,
        show_progress="hidden",
    )


def _connect_person(
    model_lock: threading.Lock, estimator: Estimator, examples: Examples, person: PersonColumn
) -> None:
    images = person.images
    images.change(None, images, images, js=REPLACE_MARKED, **PRIVATE)
    # One function, so that its answers come in the order of the calls: the last lists the images
    inspect: dict[str, Any] = {
        "fn": images_handler(model_lock, estimator, examples),
        "inputs": [images, person.keypoints],
        "outputs": [person.status, person.keypoints, person.number],
        "show_progress": "hidden",
    }
    images.change(**inspect, api_name="inspect")
    person.examples.click(None, images, images, js=MARK_REPLACEABLE, **PRIVATE)
    person.examples.click(
        example_handler(examples),
        inputs=person.examples,
        outputs=[person.chosen, person.status],
        api_name="example",
        show_progress="hidden",
        trigger_mode="multiple",  # the last click wins
    ).then(None, [person.chosen, images], images, js=SHOW_EXAMPLE, **PRIVATE).then(
        **inspect, **PRIVATE
    )  # a gallery that was empty reports no change when an example is shown
    person.files.upload(
        keypoints_handler(),
        inputs=[person.files, images, person.keypoints],
        outputs=[person.keypoints, person.status, person.files],
        api_name="keypoints",
        show_progress="minimal",
        trigger_mode="multiple",
    )
