"""QK-norm: queries and keys are normalised before their product, so that the scores of attention
stay bounded however large the weights grow (Dehghani et al. 2023, arXiv 2302.05442).

As in Stable Diffusion 3 (arXiv 2403.03206, sec. 5.3.2): RMSNorm over the features of a head, with a
learned gain for each feature, which all heads share.
"""

from __future__ import annotations

from torch import Tensor, nn


class QKNorm(nn.Module):
    """g x / sqrt(mean(x^2) + 1e-6) of queries and keys (N, H, K, d), with a gain g (d,) for each.

    Further keys, as those of the source, take the gain of the keys.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.q = nn.RMSNorm(features, eps=1e-6)
        self.k = nn.RMSNorm(features, eps=1e-6)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        # in the type of the gains: under autocast q and k are bf16, their norms float32
        dtype = self.q.weight.dtype
        return self.q(q.to(dtype)).to(q.dtype), self.k(k.to(dtype)).to(k.dtype)
