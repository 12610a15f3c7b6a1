"""The student: the teacher's architecture and weights, with the guidance scale as an input."""

from __future__ import annotations

import torch

from xmdpt_cli.model import XMDPT
from xmdpt_cli.model.config import built_with


def build_student(teacher: XMDPT, two_predictions: bool) -> XMDPT:
    """A student that starts with the teacher's weights.

    ``two_predictions``: the second half of its output predicts the same as the first, which a
    policy needs, instead of the teacher's variance.
    """
    settings = built_with(teacher)  # without the networks that only training needs
    settings = {**settings, "predictor": "none", "repa_width": 0, "guidance_embed": True}
    student = XMDPT(**settings)
    if student.tdnet.pos_embed.is_meta:
        return student
    known = teacher.state_dict()
    own = student.state_dict()
    # the scale's embedding is the student's own, unless the teacher has one, too
    student.load_state_dict({name: known.get(name, value) for name, value in own.items()})
    if two_predictions:
        copy_prediction(student)
    return student


@torch.no_grad()
def copy_prediction(model: XMDPT) -> None:
    """Make the second half of the output channels predict what the first half does."""
    linear, channels = model.tdnet.final_layer.linear, model.tdnet.channels
    for values in (linear.weight, linear.bias):
        each = values.unflatten(0, (-1, 2 * channels))  # (p * p, 2C, ...)
        each[:, channels:] = each[:, :channels]
