"""The weights of the package's toy model: people in the right pose, and in visible clothes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from xmdpt_cli.images import ImageArray, load_image
from xmdpt_cli.sampling.pipeline import XMDPTPipeline
from xmdpt_cli.toy import pretrained
from xmdpt_cli.toy.examples import Example, examples_of, generate_examples
from xmdpt_cli.toy.joints import refit_joints
from xmdpt_cli.toy.measures import silhouette_iou, torso_colour_error, torso_contrast
from xmdpt_cli.toy.people.views import render_view

pytestmark = pytest.mark.skipif(
    not pretrained.is_available(), reason="this checkout has no weights of the toy model"
)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Example, ImageArray]]:
    """Examples of people of the test split, with their generated images."""
    out = tmp_path_factory.mktemp("toy")
    pipe = XMDPTPipeline.from_pretrained(pretrained.folder(), device="cpu")
    examples = examples_of()
    generate_examples(pipe, examples, pipe.sampling_config(), out)
    return [(e, np.asarray(load_image(Path(out) / f"{e.name}.png"))) for e in examples]


def test_heads_and_hands_are_where_the_pose_says(
    generated: list[tuple[Example, ImageArray]],
) -> None:
    heads, hands = [], []
    for example, image in generated:
        found = refit_joints(image, example.target)
        heads.append(found.pop("head"))
        hands += found.values()
    assert np.median(heads) < 0.02
    assert np.median(hands) < 0.04


def test_clothes_and_silhouettes_are_those_of_the_person(
    generated: list[tuple[Example, ImageArray]],
) -> None:
    colours, overlaps = [], []
    for example, image in generated:
        truth = render_view(example.target, height=image.shape[0])
        colours.append(torso_colour_error(image, truth.image, truth.keypoints))
        overlaps.append(silhouette_iou(image, truth.image))
        contrast = torso_contrast(truth.image, truth.keypoints)
        if not math.isnan(contrast):
            assert torso_contrast(image, truth.keypoints) > 0.5 * contrast
    assert np.nanmedian(colours) < 20  # grey levels
    assert np.median(overlaps) > 0.75
