"""Attention as a flow from the source to the target, for losses of training: after Leffa (Zhou et
al. 2024, arXiv 2412.08486).

Where a token of the target attends to in the source, on average, is a place: the flow. A flow that
is right warps the source into the target, and leads from each joint of the target to the same joint
of the source. Leffa warps the reference image; here its latents are warped, since training reads
latents. Both errors have gradients to the queries and keys alone.

Legend: N batch, C latent channels, h = w latent side, T = s * s tokens of the grid, H heads, d
features of a head. Places are (x, y) in [-1, 1], the outer edges of the image, as ``grid_sample``
takes them with ``align_corners=False``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 2.0  # as in Leffa
TIMESTEP_LIMIT = 500  # as in Leffa: at larger t a target is too noisy to be matched


def attention_flow(q: Tensor, k: Tensor) -> Tensor:
    """The place in the source that each token of the target attends to: (N, T, 2).

    The softmax of q k^T / (sqrt(d) * TEMPERATURE) over the source alone, averaged over the heads,
    times the centres of the source's tokens.

    Args:
        q: (N, H, T, d) queries of the target's tokens, as attention multiplies them.
        k: (N, H, T, d) keys of the source's tokens, of one view.
    """
    assert q.shape == k.shape
    features, dtype = q.shape[-1], torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):  # a place needs more than 8 bits
        places = centres(math.isqrt(k.shape[2]), dtype, k.device).flatten(0, 1)  # (T, 2)
        # attention whose values are places: no kernel has to store the probabilities
        values = F.pad(places, (0, features - 2)).expand_as(k)
        scale = 1 / (math.sqrt(features) * TEMPERATURE)
        flow = F.scaled_dot_product_attention(q.to(dtype), k.to(dtype), values, scale=scale)
    return flow[..., :2].mean(dim=1)


def centres(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The centres of a grid's cells, (side, side, 2) as (x, y)."""
    axis = (2 * torch.arange(side, dtype=dtype, device=device) + 1) / side - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], dim=2)


def displacement(flow: Tensor) -> Tensor:
    """The flow (N, T, 2) minus each token's own place, as a map (N, 2, s, s).

    Displacements can be interpolated: interpolated places would end at the outermost centres.
    """
    side = math.isqrt(flow.shape[1])
    own = centres(side, flow.dtype, flow.device).flatten(0, 1)
    return (flow - own).transpose(1, 2).unflatten(2, (side, side))


def warp(source: Tensor, flow: Tensor) -> Tensor:
    """The source (N, C, h, w), warped by the flow (N, T, 2), both interpolated bilinearly."""
    h, w = source.shape[-2:]
    assert h == w
    moved = F.interpolate(displacement(flow), (h, w), mode="bilinear", align_corners=False)
    grid = centres(h, flow.dtype, flow.device) + moved.permute(0, 2, 3, 1)  # (N, h, w, 2)
    return F.grid_sample(source.to(flow.dtype), grid, padding_mode="border", align_corners=False)


def warp_error(flow: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """(N,) mean squared difference of the warped source and the target, latents (N, C, h, w)."""
    return (warp(source, flow) - target).square().flatten(1).mean(dim=1)


def keypoint_error(flow: Tensor, joints: Tensor) -> Tensor:
    """(N,) mean squared distance of the flow at the target's joints from the source's joints, in
    units of the image side; over the joints that both images show, 0 where there are none.

    joints (N, 2, J, 2): the target's, then the source's (x, y), fractions of the image side, NaN
    missing.
    """
    shown = ((joints >= 0) & (joints <= 1)).all(dim=3).all(dim=1)  # (N, J)
    target, source = torch.where(shown[:, None, :, None], joints, 0.5).to(flow.dtype).unbind(1)
    at = 2 * target - 1
    moved = F.grid_sample(  # (N, 2, J, 1)
        displacement(flow), at.unsqueeze(2), padding_mode="border", align_corners=False
    )
    reached = (at + moved.squeeze(3).transpose(1, 2) + 1) / 2  # (N, J, 2)
    errors = (reached - source).square().sum(dim=2) * shown
    return errors.sum(dim=1) / shown.sum(dim=1).clamp(min=1)
