"""Optimizers (AdamW: the paper; Adan: MDTv2; Muon: short runs) and the learning rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from xmdpt_cli.training.run_config import RunConfig

#: Newton-Schulz coefficients of the quintic that pushes singular values towards 1 (Jordan 2024)
QUINTIC = (3.4445, -4.7750, 2.0315)


def make_optimizers(model: nn.Module, config: RunConfig) -> list[torch.optim.Optimizer]:
    """AdamW or Adan over everything, or Muon over the blocks' matrices and AdamW over the rest."""
    if config.optimizer == "adan":
        from timm.optim.adan import Adan

        return [Adan(model.parameters(), config.learning_rate, weight_decay=config.weight_decay)]
    matrices: list[nn.Parameter] = []
    if config.optimizer == "muon":
        matrices = [p for name, p in model.named_parameters() if _is_block_matrix(name, p)]
    taken = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in taken]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            rest, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
    ]
    if matrices:
        optimizers.append(Muon(matrices, config.learning_rate, config.weight_decay))
    return optimizers


def learning_rate_factor(step: int, steps: int, warmup_steps: int, decay: str) -> float:
    """The factor on the learning rate at ``step`` (from 0) of ``steps``.

    Linear warm-up, then constant (``decay`` "none") or half a cosine down to 0 ("cosine").
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if decay == "none":
        return 1.0
    span = max(1, steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup_steps) / span)))


def state_bytes(model: nn.Module, config: RunConfig) -> int:
    """Bytes of the optimizers' state: float32 tensors of the parameters' shapes."""
    each = 4 if config.optimizer == "adan" else 2
    total = 0
    for name, parameter in model.named_parameters():
        muon = config.optimizer == "muon" and _is_block_matrix(name, parameter)
        total += 4 * parameter.numel() * (1 if muon else each)
    return total


def _is_block_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Attention and MLP weights: they map tokens to tokens. Modulations are AdamW's."""
    in_block = "block" in name and (".attn." in name or ".mlp." in name)
    matrix = name.endswith(".weight") and parameter.dim() == 2  # no gain of QK-norm
    return (in_block or ".source_kv." in name) and matrix


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are orthogonalised (Jordan et al. 2024), for weights (a D, b D).

    Each weight is cut into D x D squares (a fused q, k and v are three maps, not one), all squares
    of one size are orthogonalised in one batch, in float32. An update has the size of AdamW's:
    0.2 of the learning rate a weight, root mean square (Liu et al. 2025, arXiv 2502.16982, eq. 4),
    times 2.5, the best factor in our experiments.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        iterations: int = 3,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "iterations": iterations,
        }
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; gradients that are None are left out."""
        assert closure is None
        for group in self.param_groups:
            by_side: dict[int, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_side.setdefault(min(parameter.shape), []).append(parameter)
            for side, parameters in by_side.items():
                self._update(parameters, side, group)

    def _update(self, parameters: list[Tensor], side: int, group: dict[str, Any]) -> None:
        """One update of weights that consist of squares of one size, in few launches on a GPU."""
        momentum: float = group["momentum"]
        gradients = [p.grad for p in parameters if p.grad is not None]  # all have one
        buffers = [self._momentum(parameter) for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, buffers, momentum)  # Nesterov
        squares = [_squares(direction, side) for direction in ahead]
        updates = orthogonal(torch.cat(squares), group["iterations"])
        updates = updates.split([len(square) for square in squares])
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        joined = [_joined(update, like) for update, like in zip(updates, parameters, strict=True)]
        torch._foreach_add_(parameters, joined, alpha=-0.5 * math.sqrt(side) * group["lr"])

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum"]
        return buffer


def orthogonal(x: Tensor, iterations: int = 3) -> Tensor:
    """(M, D, D) -> nearly the orthogonal factor of each polar decomposition, by Newton-Schulz."""
    a, b, c = QUINTIC
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    # three buffers, swapped: fresh memory costs as much as a product of small matrices
    square, cubic, out = torch.empty_like(x), torch.empty_like(x), torch.empty_like(x)
    for _ in range(iterations):
        torch.bmm(x, x.mT, out=square)
        torch.baddbmm(square, square, square, beta=b, alpha=c, out=cubic)
        torch.baddbmm(x, cubic, x, beta=a, out=out)
        x, out = out, x
    return x


def _squares(x: Tensor, side: int) -> Tensor:
    """(a D, b D) -> (a b, D, D)"""
    rows, columns = x.shape[0] // side, x.shape[1] // side
    return x.reshape(rows, side, columns, side).transpose(1, 2).reshape(-1, side, side)


def _joined(squares: Tensor, like: Tensor) -> Tensor:
    """The inverse of ``_squares``."""
    side = squares.shape[1]
    rows, columns = like.shape[0] // side, like.shape[1] // side
    return squares.reshape(rows, columns, side, side).transpose(1, 2).reshape(like.shape)
