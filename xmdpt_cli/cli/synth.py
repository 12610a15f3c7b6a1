"""``xmdpt synth``: synthetic people in the raw DeepFashion layout."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Annotated, Any

import typer

from xmdpt_cli.cli.console import Talk, warning
from xmdpt_cli.cli.help import panels
from xmdpt_cli.cli.options import AsJson, plain


@panels({"Synthetic people": "out people test-people views height plain seed"})
def synth(
    out: Annotated[
        Path, typer.Option(help="Folder to write, in the raw DeepFashion layout.")
    ] = Path("people"),
    people: Annotated[
        int, typer.Option(min=1, help="Number of people in the training list.")
    ] = 400,
    test_people: Annotated[
        int, typer.Option(min=1, help="Number of people in the test list.")
    ] = 32,
    views: Annotated[int, typer.Option(min=2, max=5, help="Number of images of each person.")] = 4,
    height: Annotated[
        int, typer.Option(help="Height of the images in pixels; the width is 11/16 of it.")
    ] = 256,
    plain_clothes: Annotated[
        bool,
        typer.Option(
            "--plain", help="Leave out patterns, jackets and people cut off by the frame."
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed; the same seed gives the same people.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Render synthetic people in the raw DeepFashion layout.

    Writes images, exact keypoints and pair lists, without any download.
    """
    from xmdpt_cli.toy.synthetic import make_synthetic

    talk = Talk(as_json)
    with talk.progress() as progress:
        summary = make_synthetic(
            out,
            people_train=people,
            people_test=test_people,
            views=views,
            seed=seed,
            height=height,
            plain=plain_clothes,
            progress=progress,
        )
    made = "rendered" if summary.made else "already rendered"
    talk.result(
        plain(dataclasses.asdict(summary)),
        text=f"{made}: {summary.train_images} training and {summary.test_images} test images "
        f"in {out}\nnext: xmdpt prepare --root {out} --encoders toy --resolution 64",
    )


@functools.wraps(synth)
def wardrobe(**options: Any) -> None:
    """The earlier name of ``xmdpt synth``."""
    warning("xmdpt wardrobe is now called xmdpt synth; the old name will be removed")
    synth(**options)
