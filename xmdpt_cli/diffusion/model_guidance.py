"""Model guidance: the model learns its guided prediction in training, so that sampling needs no
unconditional branch (Tang et al. 2025, arXiv 2502.12154)."""

from __future__ import annotations

from torch import Tensor


def target_shift(
    conditional: Tensor, unconditional: Tensor, keep: Tensor | None, scale: float
) -> Tensor:
    """w sg(f(x, t, c) - f(x, t, none)), which is added to the target: eq. 18 and 20, (N, C, h, w).

    The gradient stops at it. As in the paper's algorithm 1 both predictions are those of the model
    in training, not of its average, so only the unconditional one costs a forward pass.

    A model that fits this target predicts u + (e - u) / (1 - w), with u its unconditional
    prediction and e the plain target's mean: w = 0.5 is classifier-free guidance at scale 2. There
    is no such prediction from w = 1 on.

    Args:
        conditional: (N, 2C, h, w), outputs of the pass that is trained.
        unconditional: (N, 2C, h, w), the same without conditions.
        keep: (N,) bool, rows that keep their conditions; the others keep the plain target. None:
            all.
        scale: The paper's w, in [0, 1).
    """
    difference = (conditional - unconditional).detach().float()
    shift = scale * difference[:, : difference.shape[1] // 2]
    return shift if keep is None else shift * keep[:, None, None, None]
