"""Contrastive flow matching: a prediction is also pushed away from another sample's target (Stoica
et al. 2025, arXiv 2506.05350)."""

from __future__ import annotations

from torch import Tensor

from xmdpt_cli.diffusion.schedule import Schedule


def distance_to_other(
    prediction: Tensor,
    clean: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    keep: Tensor | None,
    schedule: Schedule,
) -> Tensor:
    """|| prediction - another sample's target ||^2 (N,), a mean over the values.

    Eq. 6 subtracts it, with the weight lambda (0.05 in the paper), from the squared error.

    The other sample is the next row of the batch (the first for the last one): its x_0 and its
    noise, at this row's timestep. So the same definition holds for every prediction.

    Rows without conditions are 0: the unconditional prediction, from which guidance starts, stays
    that of all samples. (An option of the authors' code; its default contrasts these rows too.)

    Args:
        prediction: (N, C, h, w).
        clean: (N, C, h, w).
        noise: (N, C, h, w).
        timesteps: (N,).
        keep: (N,) bool, rows that keep their conditions; None: all.
        schedule: The noise schedule.
    """
    other = schedule.target(clean.roll(-1, dims=0), noise.roll(-1, dims=0), timesteps)
    distance = (prediction - other).square().flatten(1).mean(dim=1)
    return distance if keep is None else distance * keep
