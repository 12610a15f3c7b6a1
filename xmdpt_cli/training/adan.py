"""Adan: adaptive Nesterov momentum (Xie et al. 2022, arXiv 2208.06677), MDTv2's optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from xmdpt_cli.training.sharded import local


class Adan(torch.optim.Optimizer):
    """Algorithm 1 with bias correction, decay applied proximally.

    With g the gradient, d its change since the last step (0 at the first), and b1, b2, b3 the
    ``betas`` in the sense of Adam (the paper's are 1 minus these):
    m = b1 m + (1-b1) g;  v = b2 v + (1-b2) d;  n = b3 n + (1-b3) (g + b2 d)^2;
    w = (w - lr (m' + b2 v') / (sqrt(n') + eps)) / (1 + lr decay), a dash for bias-corrected.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; gradients that are None are left out."""
        assert closure is None
        for group in self.param_groups:
            parameters: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2, beta3 = group["betas"]
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                # the count stays on the CPU: reading it must not wait for a device
                state["step"] = torch.zeros((), dtype=torch.float32)
                for name in ("exp_avg", "exp_avg_diff", "exp_avg_sq"):
                    state[name] = torch.zeros_like(parameter)
                state["previous"] = parameter.grad.clone()  # type: ignore[union-attr]
            state["step"] += 1

        def states(name: str) -> list[Tensor]:
            return [local(self.state[p][name]) for p in parameters]

        # all is element by element: of sharded weights each rank moves its part
        weights = [local(p) for p in parameters]
        gradients: list[Tensor] = [local(p.grad) for p in parameters]  # type: ignore[arg-type]
        change = torch._foreach_sub(gradients, states("previous"))
        torch._foreach_lerp_(states("exp_avg"), gradients, 1 - beta1)
        torch._foreach_lerp_(states("exp_avg_diff"), change, 1 - beta2)
        ahead = torch._foreach_add(gradients, change, alpha=beta2)
        torch._foreach_mul_(states("exp_avg_sq"), beta3)
        torch._foreach_addcmul_(states("exp_avg_sq"), ahead, ahead, value=1 - beta3)
        torch._foreach_copy_(states("previous"), gradients)

        step = float(states("step")[0])
        lr, decay = group["lr"], group["weight_decay"]
        scale = torch._foreach_sqrt(states("exp_avg_sq"))
        torch._foreach_div_(scale, math.sqrt(1 - beta3**step))
        torch._foreach_add_(scale, group["eps"])
        move = torch._foreach_mul(states("exp_avg"), 1 / (1 - beta1**step))
        torch._foreach_add_(move, states("exp_avg_diff"), alpha=beta2 / (1 - beta2**step))
        torch._foreach_addcdiv_(weights, move, scale, value=-lr)
        if decay:
            torch._foreach_div_(weights, 1 + lr * decay)
