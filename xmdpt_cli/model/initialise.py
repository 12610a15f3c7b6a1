"""The published initialisation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from xmdpt_cli.model.attention import Block, SourceAttention
from xmdpt_cli.model.canet import CANet
from xmdpt_cli.model.layers import FinalLayer, PatchEmbed, sincos_position_embedding
from xmdpt_cli.model.mipnet import MIPNet
from xmdpt_cli.model.relative_bias import RelativeBias
from xmdpt_cli.model.tdnet import TDNet


def initialise(canet: CANet | None, tdnet: TDNet, mipnet: MIPNet | None) -> None:
    """Xavier everywhere, then the exceptions (FACTS section 1; published code)."""
    parts = [part for part in (canet, tdnet, mipnet) if part is not None]
    modules = [module for part in parts for module in part.modules()]
    for module in modules:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        if isinstance(module, PatchEmbed):  # as if it were a linear
            nn.init.xavier_uniform_(module.proj.weight.flatten(1))
            nn.init.zeros_(module.proj.bias)  # type: ignore[arg-type]
        if isinstance(module, nn.Conv1d):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, RelativeBias):
            nn.init.trunc_normal_(module.table, std=0.02)
    for linear in _narrow(canet, tdnet):
        nn.init.normal_(linear.weight, std=0.02)
    for module in modules:
        if isinstance(module, (Block, FinalLayer)):  # adaLN-Zero
            nn.init.zeros_(module.modulation[1].weight)  # type: ignore[arg-type]
        if isinstance(module, SourceAttention):  # ours, in the same spirit
            nn.init.zeros_(module.proj.weight)
    nn.init.zeros_(tdnet.final.linear.weight)
    if mipnet is not None:
        nn.init.normal_(mipnet.mask_token, std=0.02)
    table = sincos_position_embedding(tdnet.position.shape[2], tdnet.grid)
    with torch.no_grad():
        tdnet.position.copy_(table)
        tdnet.decoder_position.copy_(table)
        if tdnet.conditions is not None and hasattr(tdnet.conditions, "source_kv"):
            for part in tdnet.conditions.source_kv.weight.split(table.shape[2]):  # D x D each
                nn.init.xavier_uniform_(part)


def _narrow(canet: CANet | None, tdnet: TDNet) -> Iterator[nn.Linear]:
    """The linears that start from normal(0.02)."""
    sequences = [tdnet.timestep.mlp]
    if canet is not None:
        for name in ("pose_mlp", "source_mlp", "final"):
            if hasattr(canet, name):
                sequences.append(getattr(canet, name))
    for sequence in sequences:
        for module in sequence:
            if isinstance(module, nn.Linear):
                yield module
