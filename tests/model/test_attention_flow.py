"""The flow of attention and its errors: known displacements, closed forms, finite differences."""

from __future__ import annotations

import torch
from torch import Tensor

from xmdpt_cli.model.attention_flow import (
    attention_flow,
    centres,
    keypoint_error,
    warp,
    warp_error,
)

SIDE, TOKENS = 4, 16
NOTHING = float("nan")


def sharp(attended: Tensor) -> tuple[Tensor, Tensor]:
    """q and k (1, 2, T, T) with which token i attends to token ``attended[i]`` alone."""
    k = 100 * torch.eye(TOKENS, dtype=torch.float64).expand(1, 2, -1, -1)
    return k[:, :, attended], k


def places() -> Tensor:
    return centres(SIDE, torch.float64, torch.device("cpu")).flatten(0, 1)


def test_the_flow_is_the_place_that_is_attended_to() -> None:
    attended = torch.randperm(TOKENS)
    column, row = attended % SIDE, attended // SIDE
    expected = torch.stack([(2 * column + 1) / SIDE - 1, (2 * row + 1) / SIDE - 1], dim=1)
    torch.testing.assert_close(attention_flow(*sharp(attended))[0], expected.double())


def test_the_flow_is_the_mean_over_heads_of_attention_times_places() -> None:
    q, k = torch.randn(2, 3, 5, TOKENS, 8, dtype=torch.float64)
    scores = torch.einsum("nhtd,nhsd->nhts", q, k) / (8**0.5 * 2.0)
    attention = (scores.exp() / scores.exp().sum(dim=3, keepdim=True)).mean(dim=1)
    torch.testing.assert_close(attention_flow(q, k), attention @ places())
    under_autocast = q.bfloat16(), k.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = attention_flow(*under_autocast)
    expected = attention_flow(*(x.float() for x in under_autocast))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_perfect_correspondence_has_no_error() -> None:
    source = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    flow = attention_flow(*sharp(torch.arange(TOKENS)))
    torch.testing.assert_close(warp(source, flow), source)
    # the target is the source, two of eight latents to the left; outside its border is repeated
    moved = source[..., torch.arange(8).add(2).clamp(max=7)]
    shift = (places() + torch.tensor([2 / 8 * 2, 0.0])).unsqueeze(0)
    torch.testing.assert_close(warp_error(shift, source, moved), torch.zeros(1).double())
    squared = (source - moved).square().mean()
    torch.testing.assert_close(warp_error(flow, source, moved)[0], squared)


def test_joints_that_both_show_are_led_to_their_place_in_the_source() -> None:
    flow = attention_flow(*sharp(torch.arange(TOKENS)))  # to its own place
    at = torch.tensor([[0.3, 0.6], [0.5, 0.5], [0.9, 0.2], [0.1, 0.1]])
    joints = at.expand(1, 2, 4, 2).clone()
    assert float(keypoint_error(flow, joints)) < 1e-12
    joints[0, 1, 0] += torch.tensor([0.2, -0.1])
    joints[0, 0, 2] = NOTHING
    joints[0, 1, 3, 0] = 1.2  # outside of the source
    torch.testing.assert_close(keypoint_error(flow, joints)[0], torch.tensor(0.05 / 2).double())
    unseen = joints.clone()
    unseen[0, 1] = NOTHING
    assert float(keypoint_error(flow, unseen)) == 0
    leaf = flow.detach().requires_grad_()
    (grad,) = torch.autograd.grad(keypoint_error(leaf, joints).sum(), leaf)
    assert bool(grad.isfinite().all())


def test_gradients_are_finite_differences() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 2, TOKENS, 4, dtype=torch.float64).requires_grad_()
    source, target = torch.randn(2, 2, 3, 8, 8, dtype=torch.float64)
    joints = torch.rand(2, 2, 5, 2)

    def errors(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        flow = attention_flow(q, k)
        return warp_error(flow, source, target), keypoint_error(flow, joints)

    assert torch.autograd.gradcheck(errors, (q, k), eps=1e-6, atol=1e-6)
