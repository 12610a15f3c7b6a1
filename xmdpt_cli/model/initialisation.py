"""The initialisation of the published code; the paper does not describe it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from xmdpt_cli.model.layers import PatchEmbed, RelativePositionBias, sincos_position_embedding

if TYPE_CHECKING:
    from xmdpt_cli.model.xmdpt import XMDPT


def initialise(model: XMDPT) -> None:
    """Set all parameters to their first values: random, or 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        if isinstance(module, PatchEmbed):  # initialised like a Linear layer
            nn.init.xavier_uniform_(module.proj.weight.flatten(1))
            nn.init.zeros_(module.proj.bias)  # type: ignore[arg-type]
        if isinstance(module, nn.Conv1d):  # CANet's convolutions over tokens
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, RelativePositionBias):
            nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
    for name, parameter in model.named_parameters():
        narrow = ("t_embedder.mlp.", "mlp_dino_pose.0.", "mlp_dino_img.0.", "mlp_final.0.")
        if any(part in name for part in narrow) and name.endswith("weight"):
            nn.init.normal_(parameter, std=0.02)
        zero = (".adaLN_modulation.", "tdnet.final_layer.linear.weight", "guidance_embed.")
        if any(part in name for part in zero):  # adaLN-Zero; a scale without effect
            nn.init.zeros_(parameter)
        if name.endswith("mask_token"):
            nn.init.normal_(parameter, std=0.02)
        if name.endswith("pos_embed"):
            with torch.no_grad():
                parameter.copy_(sincos_position_embedding(model.width, model.tdnet.grid))
        if name == "tokens.source_kv.weight":  # each block has two D x D matrices: keys, values
            for weight in parameter.split(model.width):
                nn.init.xavier_uniform_(weight)
