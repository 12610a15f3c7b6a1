"""The state of a VAE training: weights, EMA, optimizer, and the number of steps done."""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path

import torch
from torch import nn

from xmdpt_cli.encoders.decoder import Decoder
from xmdpt_cli.encoders.vae import VAE
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.metrics.lpips_metric import LpipsNetwork
from xmdpt_cli.training import checkpoint
from xmdpt_cli.training.distributed import SINGLE_PROCESS, Distributed
from xmdpt_cli.training.ema import Ema
from xmdpt_cli.training.optimizer import learning_rate_factor
from xmdpt_cli.training.step import in_bf16
from xmdpt_cli.utils.interrupts import held
from xmdpt_cli.vae_training.config import VaeConfig
from xmdpt_cli.vae_training.examples import VaeBatch
from xmdpt_cli.vae_training.loss import vae_losses

WARMUP = 0.05  # share of the steps
_LAST = 50  # steps whose mean loss is reported


def trained_parts(decoder: Decoder, all_weights: bool) -> nn.ModuleDict:
    """The parts that are trained: the decoder, and with ``all_weights`` the encoder."""
    names = ["decoder", "post_quant_conv"]
    if all_weights:
        names += ["encoder", "quant_conv"]
    parts = {name: getattr(decoder.net, name, None) for name in names}
    return nn.ModuleDict({name: part for name, part in parts.items() if part is not None})


class VaeTrainer:
    """Trains ``vae``, or ``decoder`` for its latents, in place, step by step."""

    def __init__(
        self,
        vae: VAE,
        config: VaeConfig,
        perceptual: LpipsNetwork | None = None,
        dist: Distributed = SINGLE_PROCESS,
        decoder: Decoder | None = None,
    ) -> None:
        """``config`` is settled (``config.settle``). XmdptError if ``vae`` is not float32."""
        if vae.dtype != torch.float32:
            raise XmdptError(f"a VAE is trained in float32, this one is loaded as {vae.dtype}")
        self.vae, self.config, self.perceptual, self.dist = vae, config, perceptual, dist
        self.decoder = decoder or vae
        self.trained = trained_parts(self.decoder, config.all_weights)
        self.parameters = list(self.trained.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, weight_decay=0.0, fused=True
        )
        self.ema = Ema(self.trained, config.ema, warmup=True) if config.ema else None
        self.autocast = in_bf16(config.precision, vae.device)
        self.done = 0  # steps
        self.learning_rate = 0.0  # of the last step
        self.first_loss = math.nan
        self.last_losses: deque[float] = deque(maxlen=_LAST)

    def step(self, batch: VaeBatch) -> dict[str, float]:
        """One optimizer step on this rank's part of a batch; returns the whole batch's loss terms.

        Raises XmdptError, before any weight changes, if the loss is not finite.
        """
        config = self.config
        terms = vae_losses(
            self.vae,
            batch.to(self.vae.device),
            config,
            decoder=self.decoder,
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
                    f"VAE training diverged: loss {values[0]}, gradient {length} at step "
                    f"{self.done}",
                    "the last good state is kept; start again in another folder with a lower "
                    f"learning rate than {config.learning_rate:g}",
                )
            )
        warmup_steps = max(1, round(WARMUP * config.steps))
        factor = learning_rate_factor(self.done, config.steps, warmup_steps, "cosine")
        self.learning_rate = config.learning_rate * factor
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        with held():  # an interrupt saves the state between two steps
            self.optimizer.step()
            self.done += 1
            if self.ema is not None:
                self.ema.update(self.trained, self.done)
            if self.done == 1:
                self.first_loss = values[0]
            self.last_losses.append(values[0])
        return dict(zip(terms, values, strict=True))

    def use_ema(self) -> None:
        """Replace the weights by their EMA, if there is one."""
        if self.ema is not None:
            self.trained.load_state_dict(self.ema.model.state_dict())

    def save(self, folder: Path) -> None:
        """Write a checkpoint of this step below ``folder``, in place of the last. A collective."""
        checkpoint.save(
            folder,
            self.done,
            self.trained,
            None if self.ema is None else self.ema.model,
            [self.optimizer],
            {
                "seed": self.config.seed,
                "first_loss": self.first_loss,
                "last_losses": list(self.last_losses),
            },
            keep=1,
            dist=self.dist,
        )

    def resume(self, folder: Path) -> bool:
        """Load the newest checkpoint below ``folder``; returns whether there is one. A collective.

        Raises XmdptError if it is damaged.
        """
        found = self.dist.run_on_main(lambda: checkpoint.latest(folder))
        if found is None:
            return False
        ema = None if self.ema is None else self.ema.model
        state = checkpoint.load(found, self.trained, ema, [self.optimizer], self.dist)
        self.done, self.first_loss = int(state["step"]), float(state["first_loss"])
        self.last_losses = deque(state["last_losses"], maxlen=_LAST)
        return True
