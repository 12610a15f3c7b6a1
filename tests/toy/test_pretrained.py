"""The weights of the package's toy model: people, clothes and poses that it never saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from xmdpt_cli import XMDPTPipeline
from xmdpt_cli.metrics.ssim import ssim_256
from xmdpt_cli.toy import pretrained
from xmdpt_cli.toy.examples import Example, examples_of
from xmdpt_cli.toy.joints import refit_joints
from xmdpt_cli.toy.measures import silhouette_iou, torso_colour_error, torso_contrast
from xmdpt_cli.toy.people.figure import Rendering
from xmdpt_cli.toy.people.views import render_view

HEIGHT = 128
WHITE = 0.88  # of the darkest channel of a top that counts as white


@dataclass
class Row:
    """An example with its images, all HEIGHT pixels high."""

    example: Example
    source: Rendering
    target: Rendering
    generated: NDArray[np.uint8]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Two poses of each of 64 people of the test split (IoU: means over 24 images vary by 0.01)."""
    pipe = XMDPTPipeline.from_pretrained(pretrained.folder(), device="cpu")
    assert pipe.toy
    found = []
    size = np.array([round(HEIGHT * 11 / 16), HEIGHT])
    examples = examples_of(64, 2)
    for both in zip(examples[::2], examples[1::2], strict=True):
        source = render_view(both[0].source, height=HEIGHT)
        targets = [render_view(example.target, height=HEIGHT) for example in both]
        images = pipe(
            source.image,
            [target.keypoints / size for target in targets],
            source_keypoints=source.keypoints / size,
        )
        found += [
            Row(example, source, target, np.asarray(image))
            for example, target, image in zip(both, targets, images, strict=True)
        ]
    return found


def test_images_are_far_better_than_copies_of_the_source(rows: list[Row]) -> None:
    generated = [ssim_256(row.generated, row.target.image) for row in rows]
    copies = [ssim_256(row.source.image, row.target.image) for row in rows]
    assert np.mean(generated) >= np.mean(copies) + 0.12


def test_clothes_keep_their_colours(rows: list[Row]) -> None:
    errors = [
        torso_colour_error(row.generated, row.target.image, row.target.keypoints) for row in rows
    ]
    assert np.nanmean(errors) < 8.0  # grey levels; copies of the source: 25


def test_silhouettes_are_those_of_the_pose(rows: list[Row]) -> None:
    found = [silhouette_iou(row.generated, row.target.image) for row in rows]
    assert np.mean(found) >= 0.9  # copies of the source: 0.46


def test_hands_and_heads_are_where_the_skeleton_says(rows: list[Row]) -> None:
    distances = [
        distance
        for row in rows[:24:3]
        for distance in refit_joints(row.generated, row.example.target).values()
    ]
    assert np.mean(distances) <= 0.04  # of the height


def test_white_clothes_can_be_seen_on_the_light_background(rows: list[Row]) -> None:
    white = [row for row in rows if min(row.example.target.person.top.colour) >= WHITE]
    assert len(white) >= 2
    for row in white:
        contrast = torso_contrast(row.generated, row.target.keypoints)
        assert contrast >= 0.5 * torso_contrast(row.target.image, row.target.keypoints)
