"""The components of the page, in three columns: person, pose and result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from xmdpt_cli.pose.formats import SUFFIXES
from xmdpt_cli.pose.framing import FITS
from xmdpt_cli.ui import person_views, skeleton
from xmdpt_cli.ui.examples import Examples
from xmdpt_cli.ui.poses import PRESETS
from xmdpt_cli.utils.counts import counted

if TYPE_CHECKING:
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline

THUMB = 128  # pixels of the longer side of an example


@dataclass(frozen=True)
class PersonColumn:
    """The components of the Person column."""

    images: gr.Gallery
    status: gr.HTML
    number: gr.HTML  # number of views
    examples: gr.HTML
    chosen: gr.Gallery  # the example that was clicked; hidden
    keypoints: gr.HTML  # keypoints of the images, as JSON
    files: gr.File  # keypoint files


@dataclass(frozen=True)
class PoseColumn:
    """The components of the Pose column."""

    pose: gr.HTML  # as JSON
    status: gr.HTML
    file: gr.File  # a photograph or a keypoints file to replace the pose


@dataclass(frozen=True)
class ResultColumn:
    """The components of the Result column."""

    generate: gr.Button
    stop: gr.Button
    status: gr.HTML
    images: gr.Gallery
    film: gr.HTML  # previews
    download: gr.DownloadButton
    settings: list[Any]  # in the order of the arguments of ``generate_handler``'s function
    seed: gr.Number
    random: gr.Checkbox  # whether each generation gets a new seed


def person_column(examples: Examples, needs_keypoints: bool) -> PersonColumn:
    """Add the Person column. ``needs_keypoints``: whether its editor is open at the start."""
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
    chosen = gr.Gallery(visible=False)
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
    return PersonColumn(people, status, views, example_people, chosen, keypoints, keypoint_files)


def pose_column(examples: Examples) -> PoseColumn:
    """Add the Pose column."""
    gr.HTML("<h2>Pose</h2>")
    pose = gr.HTML(
        skeleton.to_json(PRESETS[0].keypoints()),
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
    return PoseColumn(pose, status, file)


def result_column(pipe: XMDPTPipeline) -> ResultColumn:
    """Add the Result column, with the settings below the result."""
    gr.HTML("<h2>Result</h2>")
    with gr.Row(elem_id="actions"):
        generate = gr.Button("Generate", variant="primary", elem_id="generate", scale=3)
        stop = gr.Button("Stop", elem_id="stop", scale=1, min_width=80, interactive=False)
    status = gr.HTML(elem_id="result-status")
    images = gr.Gallery(
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
    download = gr.DownloadButton("Download", interactive=False, elem_id="download")
    with gr.Accordion("Settings", open=True, elem_id="settings"):
        settings, seed, random = _settings(pipe)
    return ResultColumn(generate, stop, status, images, film, download, settings, seed, random)


def _example_buttons(examples: Examples) -> str:
    """The example people as buttons."""
    buttons = "".join(
        f'<button type="button" data-number="{i}" title="Test person {i + 1}"'
        f' aria-label="Test person {i + 1}">'
        f'<img src="{person_views.data_url(person.image, THUMB)}" alt=""></button>'
        for i, person in enumerate(examples.people)
    )
    return (
        '<p class="caption">or choose a person of the test set</p>'
        f'<div class="examples" role="group" aria-label="example people">{buttons}</div>'
    )


def _settings(pipe: XMDPTPipeline) -> tuple[list[Any], gr.Number, gr.Checkbox]:
    """Add the settings, at the values of the model; return (all but the checkbox, seed, checkbox).

    They have no bounds of Gradio, which reports a value outside of them in a separate window and
    in technical terms.
    """
    small: dict[str, Any] = {"min_width": 110, "scale": 1}
    defaults = pipe.sampling_config()
    sampling = _sampling_settings(pipe, small)
    with gr.Row():
        seed = gr.Number(defaults.seed, label="Seed", precision=0, **small)
        count = gr.Number(1, label="Images", precision=0, **small)
    random = gr.Checkbox(False, label="New random seed each time", elem_id="random")
    with gr.Row():
        fit = gr.Dropdown(
            list(FITS),
            value="auto",
            label="Fit",
            info="Crop, pad or squash an image of another shape.",
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
    return [*sampling, seed, count, fit, person], seed, random


def _sampling_settings(pipe: XMDPTPipeline, small: dict[str, Any]) -> list[Any]:
    """Add steps, solver, guidance and power; return (steps, guidance, power, solver). What a
    distilled model fixes cannot be edited. ``small``: the layout of a field."""
    defaults, solvers = pipe.sampling_config(), list(pipe.solvers)
    distilled = pipe.sampler.metadata.get("distilled")
    own: dict[str, Any] = {**small, "interactive": True}
    steps_info = solver_info = None
    guidance_info = "Strength of the conditions; 1: off."
    power_info = "Larger values apply guidance later."
    if distilled:
        guidance_info = "Strength, from {:g} to {:g}.".format(*distilled["guidance"])
    if distilled and distilled["steps"]:  # it samples in no other way
        own["interactive"] = False
        steps_info = f"Fixed: distilled to {counted(distilled['steps'], 'step')}."
        solver_info, power_info = "Fixed: of distilled models.", "Fixed by the distillation."
    with gr.Row():
        steps = gr.Number(defaults.steps, label="Steps", info=steps_info, precision=0, **own)
        solver = gr.Dropdown(
            solvers,
            value=defaults.solver,
            label="Solver",
            info=solver_info,
            filterable=False,
            **own,
        )
    with gr.Row():
        guidance = gr.Number(
            defaults.guidance, label="Guidance", info=guidance_info, step=0.25, **small
        )
        power = gr.Number(defaults.power, label="Guidance power", info=power_info, step=0.1, **own)
    return [steps, guidance, power, solver]
