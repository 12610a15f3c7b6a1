"""The settings of the model that a run trains."""

from __future__ import annotations

from dataclasses import dataclass

from xmdpt_cli.config import option

#: the keys of ``model.SIZES``, for help and checks that load no torch
SIZE_NAMES = ("tiny", "mini", "S", "B", "L", "XL")


@dataclass(frozen=True)
class ModelConfig:
    """The parts and the size of the model, and what its dataset must have."""

    size: str = option("S", "Size of the model.", choices=SIZE_NAMES)
    patch: int = option(2, "Side of a token in latents; 2: the paper.")
    resolution: int = option(0, "Image side that the dataset must have, in pixels; 0: any.")
    source_encoder: str = option(
        "", "Encoder that the dataset's source tokens must come from, e.g. dinov2-giant (Table 2c)."
    )
    pose_encoder: str = option(
        "", "Encoder that the dataset's pose tokens must come from, e.g. dinov2-base (Table 2c)."
    )
    conditioning: str = option(
        "vector",
        "Form of the conditions; vector: the paper's single vector, tokens: our extension.",
        choices=("vector", "tokens"),
    )
    condition_parts: str = option(
        "local+global+pose",
        "Parts of the condition vector, joined by +: local (vL), global (vG), pose (vP); Table 2e.",
    )
    aggregation: str = option(
        "add",
        "How the parts of the condition vector are combined; add: published (Table 2e).",
        choices=("add", "mlp", "concat"),
    )
    predictor: str = option(
        "self-cross",
        "Predictor of masked tokens; self-cross: MIPNet, self: MDT (Table 2a, d).",
        choices=("none", "self", "cross", "cross-self", "self-cross"),
    )
    mask_ratio: float = option(0.3, "Share of tokens masked in the masked pass (Table 2b).")
    mask_span: float = option(
        0.0, "Width of the range from which each step samples its mask ratio (MDTv2: 0.2)."
    )
    backbone: str = option(
        "plain",
        "Transformer backbone; plain: published, mdtv2: with long skip connections.",
        choices=("plain", "mdtv2"),
    )
    decode_layers: int = option(
        0, "Number of blocks after the predictor; 0: 2, for mdtv2 6 (S) or 4."
    )
    positions: str = option(
        "bias",
        "Positions in attention; bias: published, a learned bias by offset, rope: rotary.",
        choices=("bias", "rope"),
    )
    qk_norm: bool = option(False, "Normalise queries and keys in attention (RMSNorm).")
