"""torch.hub's DINOv2 written out from its formulas: no code of transformers, none of the product.

Legend: N images, g patches a side, D width, H heads, L = 1 + g * g tokens.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

A = -0.75  # of torch's cubic convolution kernel (Keys 1981)
SHAPES = {  # facebook/dinov2-base and -giant, narrow and shallow
    "base": {"hidden_size": 48, "num_attention_heads": 2},
    "giant": {"hidden_size": 72, "num_attention_heads": 3, "use_swiglu_ffn": True},
}


def make_dino(folder: Path, shape: str, *, layers: int = 2, **config: object) -> Path:
    """A transformers folder of random weights, none of them constant."""
    from transformers import Dinov2Config, Dinov2Model

    settings = {"image_size": 518, "patch_size": 14, "num_hidden_layers": layers}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(shape))
        net = Dinov2Model(Dinov2Config(**{**settings, **SHAPES[shape], **config}))
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    net.save_pretrained(folder)
    return folder


def cubic(distance: float) -> float:
    """Weight of a sample at a distance from the place that is read."""
    d = abs(distance)
    if d <= 1:
        return (A + 2) * d**3 - (A + 3) * d**2 + 1
    return A * d**3 - 5 * A * d**2 + 8 * A * d - 4 * A if d < 2 else 0.0


def axis(old: int, new: int, scale: float) -> NDArray[np.float64]:
    """(new, old): output i is read at (i + 0.5) / scale - 0.5; beyond the border, the border."""
    matrix = np.zeros((new, old))
    for i in range(new):
        place = (i + 0.5) / scale - 0.5
        first = math.floor(place)
        for j in range(first - 1, first + 3):
            matrix[i, min(max(j, 0), old - 1)] += cubic(place - j)
    return matrix


def hub_table(table: NDArray[np.float64], grid: int, offset: float = 0.1) -> NDArray[np.float64]:
    """(1 + S * S, D) -> (1 + grid * grid, D), as interpolate_pos_encoding of torch.hub's DINOv2."""
    side = math.isqrt(len(table) - 1)
    if side == grid:
        return table
    one = axis(side, grid, (grid + offset) / side)
    patches = table[1:].reshape(side, side, -1)
    resized = np.einsum("ys,xt,std->yxd", one, one, patches)
    return np.concatenate([table[:1], resized.reshape(grid * grid, -1)])


def hub_tokens(folder: Path, images: Tensor, heads: int, offset: float = 0.1) -> Tensor:
    """float32 (N, 3, 14 g, 14 g) -> (N, L, D): the last layer after its norm, CLS first."""
    # hub's checkpoints fuse q, k, v; their names in transformers' files are older than 4.48
    w = {k: v.double() for k, v in load_file(folder / "model.safetensors").items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)

    def attention(x: Tensor, block: str) -> Tensor:
        q, k, v = (
            linear(x, f"{block}.attention.attention.{one}").unflatten(-1, (heads, -1)).mT
            for one in ("query", "key", "value")
        )  # (N, L, D / H, H)
        scores = torch.einsum("nldh,nmdh->nhlm", q, k) / math.sqrt(q.shape[2])
        mixed = torch.einsum("nhlm,nmdh->nlhd", scores.softmax(-1), v).flatten(2)
        return linear(mixed, f"{block}.attention.output.dense")

    def mlp(x: Tensor, block: str) -> Tensor:
        if f"{block}.mlp.fc1.weight" in w:
            return linear(F.gelu(linear(x, f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
        gate, value = linear(x, f"{block}.mlp.weights_in").chunk(2, dim=-1)
        return linear(F.silu(gate) * value, f"{block}.mlp.weights_out")

    grid = images.shape[-1] // 14
    cut = images.double().unfold(2, 14, 14).unfold(3, 14, 14)  # (N, 3, g, g, 14, 14)
    kernel, bias = (w[f"embeddings.patch_embeddings.projection.{k}"] for k in ("weight", "bias"))
    patches = torch.einsum("ncyxij,dcij->nyxd", cut, kernel).flatten(1, 2) + bias
    x = torch.cat([w["embeddings.cls_token"].expand(len(images), -1, -1), patches], dim=1)
    table = hub_table(w["embeddings.position_embeddings"][0].numpy(), grid, offset)
    x = x + torch.from_numpy(table)
    count = sum(name.endswith("norm1.weight") for name in w)
    for block in (f"encoder.layer.{i}" for i in range(count)):
        x = x + w[f"{block}.layer_scale1.lambda1"] * attention(norm(x, f"{block}.norm1"), block)
        x = x + w[f"{block}.layer_scale2.lambda1"] * mlp(norm(x, f"{block}.norm2"), block)
    return norm(x, "layernorm")
