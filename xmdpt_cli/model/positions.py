"""The positions of TDNet's attention as training and sampling compute them: each bias and each
rotation once.

Rotations are the same in all blocks: ``shared_positions`` before the first. Biases belong to a
block: ``block_positions`` inside of it, where FSDP2 has its weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from xmdpt_cli.model.layers import Attention, Block
from xmdpt_cli.model.relative_bias import bias_of_pairs, dense_bias, stacked_bias
from xmdpt_cli.model.rotary import Positions

if TYPE_CHECKING:
    from xmdpt_cli.model.xmdpt import TDNet

#: positions of all tokens, and of those that the masked pass keeps (None: there is no such pass)
BothPositions = tuple[Positions, Positions | None]


def shared_positions(
    net: TDNet, kv: Tensor | None, ids_keep: Tensor | None = None
) -> BothPositions | None:
    """The rotations that all blocks share; None: the model has biases.

    kv (N, S, ...) keys and values of the source; ids_keep (N, K).
    """
    attn, extra_keys = net.blocks[0].attn, extra_keys_of(kv)
    assert isinstance(attn, Attention)
    if attn.rel_pos_bias is not None:
        return None
    kept = None if ids_keep is None else attn.positions(ids_keep, extra_keys)
    return attn.positions(None, extra_keys), kept


def block_positions(
    block: Block, kv: Tensor | None, ids_keep: Tensor | None = None
) -> BothPositions:
    """The biases of a block: (H, T, T + S), and (N, H, K, K + S) of the tokens kept."""
    table, extra_keys = block.attn.rel_pos_bias, extra_keys_of(kv)
    assert table is not None
    bias = dense_bias(table)  # (H, T, T)
    positions = Positions(table.append_keys(bias, extra_keys))
    if ids_keep is None:
        return positions, None
    kept = bias_of_pairs(bias, ids_keep)  # (N, H, K, K)
    return positions, Positions(table.append_keys(kept, extra_keys))


def stacked_positions(net: TDNet, kv: Tensor | None) -> Positions:
    """Of all blocks, for ``Positions.of_block``: biases (depth, H, T, T + S), or rotations."""
    shared = shared_positions(net, kv)
    if shared is None:
        tables = [table for block in net.blocks if (table := block.attn.rel_pos_bias) is not None]
        return Positions(stacked_bias(tables, extra_keys_of(kv)))
    bias = shared[0].bias  # (1, 1, T + S) of several views, or None
    return shared[0]._replace(bias=None if bias is None else bias.expand(len(net.blocks), 1, 1, -1))


def extra_keys_of(kv: Tensor | None) -> int:
    """S."""
    return 0 if kv is None else kv.shape[1]
