"""CANet: all conditions folded into one vector (paper sec. 3).

Legend: N batch, T latent tokens, L DINOv2 tokens (CLS and patches), D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xmdpt_cli.errors import ConfigError

#: vL, vG, vP of the paper: source latents, source DINOv2 tokens, pose DINOv2 tokens (Table 2e)
PARTS = ("local", "global", "pose")
#: how the parts become one (Table 2e); the published model adds
AGGREGATIONS = ("add", "mlp", "concat")


class CANet(nn.Module):
    """Condition aggregation: pose, source and source latents folded into one vector (N, D).

    LayerNorm's eps is 1e-12 in the published code; GELU is the exact one here. ``parts`` leaves
    some of the three out. ``aggregation``: "add" (published); "mlp", side by side through a
    Linear and GELU; "concat", stacked and joined by a convolution with kernel 1.
    """

    def __init__(
        self,
        width: int,
        tokens: int,
        pose: tuple[int, int],
        source: tuple[int, int],
        parts: tuple[str, ...] = PARTS,
        aggregation: str = "add",
    ) -> None:
        """``pose`` and ``source`` are (length L, feature width) of the DINOv2 tokens."""
        super().__init__()
        if not parts or set(parts) - set(PARTS) or len(set(parts)) != len(parts):
            raise ConfigError(f"condition parts are some of {', '.join(PARTS)}, not {parts}")
        if aggregation not in AGGREGATIONS:
            raise ConfigError(
                f"aggregation is one of {', '.join(AGGREGATIONS)}, not {aggregation!r}"
            )
        self.parts, self.aggregation = parts, aggregation
        self.pose, self.source = pose, source

        def project(features: int) -> nn.Sequential:
            norm = nn.LayerNorm(width, eps=1e-12)
            return nn.Sequential(nn.Linear(features, width), nn.GELU(), norm)

        def aggregate(length: int) -> nn.Sequential:
            # a convolution with kernel 1 over the *token* axis: L tokens -> 1
            norm = nn.LayerNorm(width, eps=1e-12)
            return nn.Sequential(nn.Conv1d(length, 1, kernel_size=1), nn.GELU(), norm)

        if "pose" in parts:
            self.pose_mlp, self.pose_conv = project(pose[1]), aggregate(pose[0])
        if "global" in parts:
            self.source_mlp, self.global_conv = project(source[1]), aggregate(source[0])
        if "local" in parts:
            self.local_conv = aggregate(tokens)
        if aggregation == "mlp":
            self.join: nn.Module = nn.Sequential(nn.Linear(len(parts) * width, width), nn.GELU())
        if aggregation == "concat":
            self.join = nn.Conv1d(len(parts), 1, kernel_size=1)
        self.final = project(width)

    def forward(
        self, pose_tokens: Tensor, source_tokens: Tensor, source_embedding: Tensor
    ) -> Tensor:
        """(N, L, 768), (N, L, 1536), (N, T, D) -> (N, D)."""
        dtype = source_embedding.dtype
        vectors = []  # (N, 1, D) each
        if "local" in self.parts:
            vectors.append(self.local_conv(source_embedding))
        if "global" in self.parts:
            vectors.append(self.global_conv(self.source_mlp(source_tokens.to(dtype))))
        if "pose" in self.parts:
            vectors.append(self.pose_conv(self.pose_mlp(pose_tokens.to(dtype))))
        if self.aggregation == "add":
            joined = sum(vectors[1:], vectors[0])
        elif self.aggregation == "mlp":
            joined = self.join(torch.cat(vectors, dim=2))
        else:
            joined = self.join(torch.cat(vectors, dim=1))
        return self.final(joined.squeeze(1))
