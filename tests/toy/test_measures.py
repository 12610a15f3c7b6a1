"""The toy metrics on images whose values can be computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from xmdpt_cli.images import ImageArray
from xmdpt_cli.metrics.pixels import to_tensor
from xmdpt_cli.toy.examples import examples_of
from xmdpt_cli.toy.measures import (
    SilhouetteIoU,
    TorsoColourError,
    silhouette_iou,
    torso_colour_error,
    torso_contrast,
)
from xmdpt_cli.toy.people.views import render_view

BACKGROUND = (225, 222, 218)


def person(x: int = 22, colour: tuple[int, int, int] = (200, 40, 60)) -> ImageArray:
    """A torso 20 wide and 30 high on a plain background."""
    image = np.full((64, 64, 3), BACKGROUND, np.uint8)
    image[16:46, x : x + 20] = colour
    return image


def joints(x: int = 22) -> NDArray[np.float64]:
    keypoints = np.full((18, 2), np.nan)
    keypoints[2], keypoints[5] = (x, 16), (x + 19, 16)
    keypoints[8], keypoints[11] = (x, 45), (x + 19, 45)
    return keypoints


def test_torso_colour_error_is_the_difference_of_mean_colours() -> None:
    ground_truth = person()
    assert torso_colour_error(ground_truth, ground_truth, joints()) == 0.0
    other = person(colour=(170, 40, 120))
    assert torso_colour_error(other, ground_truth, joints()) == pytest.approx((30 + 0 + 60) / 3)
    # noise without bias averages out, only the mean counts
    checks = ground_truth.astype(np.int64)
    checks[::2, ::2] += 10
    checks[1::2, 1::2] -= 10
    assert torso_colour_error(checks.astype(np.uint8), ground_truth, joints()) < 1.0


def test_torso_colour_error_reads_inside_the_torso_of_the_ground_truth() -> None:
    outlined = person()
    outlined[16:46, [22, 23, 40, 41]] = 0  # an outline, and arms at its sides
    outlined[:16] = 0
    assert torso_colour_error(outlined, person(), joints()) == 0.0
    absent = np.full((64, 64, 3), BACKGROUND, np.uint8)
    expected = np.abs(np.array(BACKGROUND) - (200, 40, 60)).mean()
    assert torso_colour_error(absent, person(), joints()) == pytest.approx(expected)


@pytest.mark.parametrize("joint", [2, 5, 8, 11])
def test_torso_colour_error_needs_shoulders_and_hips(joint: int) -> None:
    keypoints = joints()
    keypoints[joint] = np.nan
    assert math.isnan(torso_colour_error(person(), person(), keypoints))
    assert math.isnan(torso_colour_error(person(), person(), joints() + 500))  # outside the image


def test_silhouette_iou_counts_pixels() -> None:
    ground_truth = person()
    assert silhouette_iou(ground_truth, ground_truth) == 1.0
    assert silhouette_iou(person(x=27), ground_truth) == pytest.approx(15 / 25)
    assert silhouette_iou(person(x=43), ground_truth) == 0.0
    # the colour of the clothes does not matter, nor that of each image's background
    darker = person(colour=(30, 90, 20))
    darker[(darker == BACKGROUND).all(axis=2)] = (200, 205, 210)
    assert silhouette_iou(darker, ground_truth) == 1.0


def test_silhouette_iou_tolerates_noise_and_feet_at_the_border() -> None:
    noise = np.random.default_rng(0).normal(0, 6, (64, 64, 3))
    rough = np.clip(person() + noise, 0, 255).astype(np.uint8)
    assert silhouette_iou(rough, person()) > 0.99
    standing = person()
    standing[46:, 24:40] = (40, 50, 90)
    assert silhouette_iou(standing, standing) == 1.0
    assert silhouette_iou(standing, person()) == pytest.approx(600 / (600 + 18 * 16))


WHITE = (245, 242, 238)  # 20 from the background


def test_light_stripes_and_white_clothes_inside_a_contour_are_part_of_the_silhouette() -> None:
    striped, white = person(), person(colour=WHITE)
    striped[18:44:4, 23:41] = WHITE
    white[16:46, [22, 41]] = white[[16, 45], 22:42] = (60, 60, 60)
    assert silhouette_iou(striped, person()) == silhouette_iou(white, person()) == 1.0


def test_background_inside_a_contour_is_no_part_of_the_silhouette() -> None:
    akimbo = person()
    noise = np.random.default_rng(0).integers(-4, 5, (10, 6, 3))
    akimbo[20:30, 30:36] = np.array(BACKGROUND) + noise  # between an arm and the body
    assert silhouette_iou(akimbo, person()) == 1 - 60 / 600


def test_silhouettes_found_in_images_are_those_that_were_rendered() -> None:
    found = []
    for example in examples_of(12, 2):
        rendering = render_view(example.target, height=256)
        shape = np.full_like(rendering.image, 255)
        shape[rendering.silhouette] = 0
        found.append(silhouette_iou(rendering.image, shape))
    # shadows on the floor are the difference; without what contours enclose: 0.87
    assert np.mean(found) > 0.92


def test_silhouette_iou_of_two_empty_images_is_undefined() -> None:
    empty = np.full((64, 64, 3), BACKGROUND, np.uint8)
    assert math.isnan(silhouette_iou(empty, empty))
    assert silhouette_iou(empty, person()) == 0.0


def test_metrics_of_a_batch() -> None:
    generated = to_tensor([person(colour=(170, 40, 120)), person(x=27)])
    ground_truth = to_tensor([person(), person()])
    torso, iou = TorsoColourError(), SilhouetteIoU()
    torso.update(generated, ground_truth, torch.from_numpy(np.stack([joints(), joints() + np.nan])))
    iou.update(generated, ground_truth)
    assert float(torso.compute()) == pytest.approx(30)
    np.testing.assert_allclose(torso.per_image(), [30, np.nan])
    np.testing.assert_allclose(iou.per_image(), [1.0, 15 / 25])
    torso.reset()
    torso.update(generated, ground_truth)  # no keypoints are known
    assert math.isnan(torso.compute())


def test_torso_contrast_is_the_mean_difference_from_the_background() -> None:
    # the torso grown by 1.25 covers the shape and background around it
    image = np.full((64, 64, 3), BACKGROUND, np.uint8)
    assert torso_contrast(image, joints()) == 0.0
    full = person(colour=(BACKGROUND[0] - 100, BACKGROUND[1], BACKGROUND[2] - 30))
    share = 20 * 30 / (1.25 * 20 * 1.25 * 30)
    assert torso_contrast(full, joints()) == pytest.approx(100 * share, rel=0.1)


def test_white_clothes_that_fade_into_the_background_lose_their_contrast() -> None:
    seen, faded = person(colour=BACKGROUND), person(colour=BACKGROUND)
    seen[16:46, [22, 41]] = 90  # an outline
    assert torso_contrast(seen, joints()) > 5 > torso_contrast(faded, joints())


def test_torso_contrast_needs_a_torso() -> None:
    keypoints = joints()
    keypoints[5] = np.nan
    assert math.isnan(torso_contrast(person(), keypoints))
