"""The conditions of a batch, by a model's own networks.

Legend: N pairs, C latent channels, h, w latent size, D width, L DINOv2 tokens.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from xmdpt_cli.model import XMDPT, TokenConditions


class ConditionInputs(Protocol):
    """What the conditions are computed from: the inputs of a step, or validation pairs."""

    @property
    def pose_tokens(self) -> Tensor: ...  # (N, L, 768)
    @property
    def source_tokens(self) -> Tensor: ...  # (N, L, 1536)
    @property
    def source(self) -> Tensor: ...  # (N, C, h, w) latents, scaled
    @property
    def pose_maps(self) -> tuple[Tensor, Tensor] | None: ...  # the target's, the source's


class ModelConditions(NamedTuple):
    """The conditions of a batch as a model reads them."""

    vector: Tensor  # (N, D)
    tokens: TokenConditions | None  # of ``conditioning="tokens"``


def conditions_of(model: XMDPT, inputs: ConditionInputs) -> ModelConditions:
    """The condition vector and, where there are pose maps, the token conditions."""
    vector = model.condition(inputs.pose_tokens, inputs.source_tokens, inputs.source)
    tokens = None
    if inputs.pose_maps is not None:
        tokens = model.token_conditions(inputs.source, *inputs.pose_maps)
    return ModelConditions(vector, tokens)
