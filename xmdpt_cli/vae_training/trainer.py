"""The state of a VAE training: weights, average, optimizer, and how far it is. One file saves it.

The file is safetensors, the numbers beside the tensors are JSON in its header: nothing that runs
when read, and one rename makes it whole.
"""

from __future__ import annotations

import json
import math
import os
from collections import deque
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from typing_extensions import TypedDict

from xmdpt_cli.encoders.vae import VAE
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import atomic_write, writing
from xmdpt_cli.metrics.lpips_metric import LpipsNetwork
from xmdpt_cli.training.distributed import SINGLE_PROCESS, Distributed
from xmdpt_cli.training.ema import Ema
from xmdpt_cli.training.step import in_bf16
from xmdpt_cli.utils import records
from xmdpt_cli.utils.interrupts import held
from xmdpt_cli.vae_training.config import VaeConfig
from xmdpt_cli.vae_training.examples import VaeBatch
from xmdpt_cli.vae_training.loss import vae_losses

WARM_UP = 0.05  # of the steps
_LAST = 50  # losses whose mean is reported


class State(TypedDict):
    """What the state of an interrupted training says beside its tensors."""

    done: Annotated[int, Ge(0)]
    first_loss: float
    last: list[float]


class VaeTrainer:
    """Trains ``vae`` in place, step by step; between two steps the state is whole."""

    def __init__(
        self,
        vae: VAE,
        config: VaeConfig,
        perceptual: LpipsNetwork | None = None,
        dist: Distributed = SINGLE_PROCESS,
    ) -> None:
        """``config`` is settled (``vae_config.settle``). XmdptError if ``vae`` is not float32."""
        if vae.dtype != torch.float32:
            raise XmdptError(f"a VAE is trained in float32, this one is loaded as {vae.dtype}")
        self.vae, self.config, self.perceptual, self.dist = vae, config, perceptual, dist
        names = ["decoder", "post_quant_conv"]
        if config.all_weights:
            names += ["encoder", "quant_conv"]
        parts = {name: getattr(vae.net, name) for name in names}
        self.trained = nn.ModuleDict({k: v for k, v in parts.items() if v is not None})
        self.parameters = list(self.trained.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, weight_decay=0.0, fused=True
        )
        self.ema = Ema(self.trained, config.ema, warmup=True) if config.ema else None
        self.autocast = in_bf16(config.precision, vae.device)
        self.done = 0
        self.first_loss = math.nan
        self.last: deque[float] = deque(maxlen=_LAST)

    def step(self, batch: VaeBatch) -> dict[str, float]:
        """One optimizer step on this process's part of a batch; the terms are the whole batch's.

        Raises XmdptError, before any weight changes, where the loss is no number any more.
        """
        config = self.config
        terms = vae_losses(
            self.vae,
            batch.to(self.vae.device),
            config,
            perceptual=self.perceptual,
            dist=self.dist,
            autocast=self.autocast,
        )
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        seen = torch.stack([term.detach() for term in terms.values()])
        self.dist.all_reduce_mean_([seen, *(p.grad for p in self.parameters if p.grad is not None)])
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        *values, length = torch.cat([seen, norm.detach()[None]]).tolist()
        if not all(map(math.isfinite, (*values, length))):
            self.dist.fail(
                XmdptError(
                    f"VAE training lost its way: loss {values[0]}, gradient {length} at step "
                    f"{self.done}",
                    "the last good state is kept; start again in another folder with a lower "
                    f"learning rate than {config.learning_rate:g}",
                )
            )
        rate = config.learning_rate * learning_rate_factor(self.done, config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with held():  # what is saved on an interrupt is the state after a whole step
            self.optimizer.step()
            self.done += 1
            if self.ema is not None:
                self.ema.update(self.trained, self.done)
            if self.done == 1:
                self.first_loss = values[0]
            self.last.append(values[0])
        return {**dict(zip(terms, values, strict=True)), "learning_rate": rate}

    def take_average(self) -> None:
        """Put the average, if there is one, in the place of the weights: what is handed out."""
        if self.ema is not None:
            self.trained.load_state_dict(self.ema.model.state_dict())

    def save(self, path: Path) -> None:
        """Write the state, whole or not at all. XmdptError if it cannot be written."""
        state = {"done": self.done, "first_loss": self.first_loss, "last": list(self.last)}
        try:
            with writing(path), atomic_write(path) as part:
                save_file(self._tensors(), part, metadata={"state": json.dumps(state)})
                with open(part, "rb+") as file:
                    os.fsync(file.fileno())
        except SafetensorError as err:
            raise XmdptError(
                f"cannot write {path}: {err}",
                "make room; the same command then goes on from the state before",
            ) from err

    def load(self, path: Path) -> None:
        """Go on from what ``save`` wrote. XmdptError, naming the file, if it is broken."""
        try:
            with safe_open(path, "pt") as file:
                state: dict[str, Any] = records.parse(State, file.metadata()["state"], path)
                # copies: tensors in a mapped file may lie unaligned, and be rounded otherwise
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            self._fill(tensors)
            self.done, self.first_loss = state["done"], float(state["first_loss"])
            self.last = deque(state["last"], maxlen=_LAST)
        except Exception as err:  # the library raises a dozen types for a broken file
            reason = str(err).splitlines()[0] if str(err) else type(err).__name__
            raise XmdptError(
                f"cannot continue from {path}: {reason}", f"to start anew: rm {path}"
            ) from err

    def _tensors(self) -> dict[str, Tensor]:
        out = {f"weights/{k}": v for k, v in self.trained.state_dict().items()}
        if self.ema is not None:
            out |= {f"average/{k}": v for k, v in self.ema.model.state_dict().items()}
        for name, parameter in self.trained.named_parameters():
            for kind, value in self.optimizer.state.get(parameter, {}).items():
                out[f"{kind}/{name}"] = torch.as_tensor(value)
        return {k: v.detach().cpu().clone().contiguous() for k, v in out.items()}

    def _fill(self, tensors: dict[str, Tensor]) -> None:
        kinds: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, name = key.split("/", 1)
            kinds.setdefault(kind, {})[name] = value
        self.trained.load_state_dict(kinds.pop("weights"))
        if self.ema is not None:
            self.ema.model.load_state_dict(kinds.pop("average"))
        names = [name for name, _ in self.trained.named_parameters()]
        state = {
            i: {kind: values[name] for kind, values in kinds.items()}
            for i, name in enumerate(names)
            if kinds
        }
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
