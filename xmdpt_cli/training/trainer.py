"""The state of a run and its training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from xmdpt_cli.diffusion import Losses
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.model import XMDPT, kernels
from xmdpt_cli.model.layers import Block
from xmdpt_cli.progress import Say, silently
from xmdpt_cli.training import checkpoint
from xmdpt_cli.training.build_dataloader import EncoderPaths, build_dataloader
from xmdpt_cli.training.checks import check_model
from xmdpt_cli.training.distributed import SINGLE_PROCESS, Distributed
from xmdpt_cli.training.ema import Ema, local_shard
from xmdpt_cli.training.optimizer import learning_rate_factor, make_optimizers
from xmdpt_cli.training.parallel import no_sync, parallelize, shard, warm_up
from xmdpt_cli.training.run_config import RunConfig
from xmdpt_cli.training.state_dict import model_state
from xmdpt_cli.training.step import in_bf16
from xmdpt_cli.training.step_noise import StepBatch, StepLoader
from xmdpt_cli.training.task import LARGE, Task
from xmdpt_cli.utils.interrupts import held


def compile_step(
    step: nn.Module, config: RunConfig, device: torch.device, world_size: int = 1
) -> Callable[[Any], Losses]:
    """``step`` (a ``Step``, wrapped or not) through torch.compile.

    On a GPU as CUDA graphs, unless shapes change from step to step or gradients outlive a graph:
    launching the kernels of S and B from Python takes longer than running them.
    """
    static = config.accumulate == 1 and not config.varying_shapes and world_size == 1
    mode = "reduce-overhead" if static and device.type == "cuda" else None
    compiled: Callable[[Any], Losses] = torch.compile(step, mode=mode)
    return compiled


class Trainer:
    """The state of a run: model, EMA, optimizer, and the number of steps done."""

    def __init__(
        self,
        task: Task,
        device: str | torch.device = "cpu",
        dist: Distributed = SINGLE_PROCESS,
    ) -> None:
        config = task.config
        self.task, self.config, self.dataset, self.dist = task, config, task.dataset, dist
        self.device = torch.device(device) if dist.world_size == 1 else dist.device
        self.micro_batch = micro_batch(config, dist)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = task.build_model().to(self.device)
        kernels.prepare(self.model)  # before the EMA copies it
        self.ema = Ema(self.model, config.ema, config.ema_warmup)
        shard(self.ema.model, dist, blocks_of(self.ema.model))
        self.module = task.make_step(self.model, self.device)
        self.autocast = self.module.autocast = in_bf16(config.precision, self.device)
        self.wrapped = parallelize(self.module, dist, blocks_of(self.module))
        self.optimizers = make_optimizers(self.model, config)  # of the parts, where it is sharded
        self.run: Callable[[Any], Losses] = self.wrapped
        if config.compile == "on" or (config.compile == "auto" and self.device.type == "cuda"):
            self.run = compile_step(self.wrapped, config, self.device, dist.world_size)
        self.copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.done = 0  # steps
        self.warmed_up = False
        self.learning_rate = 0.0  # of the last step
        self.skipped = 0  # pairs this rank could not read; others replaced them

    def loader(self, encoders: EncoderPaths | None = None, warn: Say = silently) -> StepLoader:
        """This rank's micro batches with their random numbers."""
        return build_dataloader(
            self.config,
            self.dataset,
            self.model,
            self.micro_batch,
            rank=self.dist.rank,
            world=self.dist.world_size,
            device=self.device,
            encoders=encoders,
            warn=warn,
        )

    def step(self, batches: Iterator[StepBatch]) -> Losses:
        """One optimizer step on the next ``accumulate`` batches, without waiting for the device.

        Returns the detached losses of this rank.
        """
        config, parts = self.config, []
        self.model.zero_grad(set_to_none=True)
        for part in range(config.accumulate):
            batch = next(batches)
            self.skipped += batch.skipped
            inputs = self._inputs(batch)
            if not self.warmed_up:
                warm_up(self.model, self.dist, partial(self._total, inputs))
                self.warmed_up = True
            last = part == config.accumulate - 1
            with nullcontext() if last else no_sync(self.wrapped):
                losses = self.run(inputs)
                (losses.total / config.accumulate).backward()
            # copies: a CUDA graph writes its next results where these are
            rows = (None if row is None else row.detach().clone() for row in losses)
            parts.append(Losses(*rows))  # type: ignore[arg-type]
        if config.max_grad_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.max_grad_norm)
        self.learning_rate = config.learning_rate * learning_rate_factor(
            self.done, config.steps, config.warmup_steps, config.decay
        )
        with held():  # an interrupt saves the state between two steps
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = self.learning_rate
                optimizer.step()
            self.done += 1
            self.ema.update(self.model, self.done)
        return joined(parts)

    def _inputs(self, batch: StepBatch) -> Any:
        """The batch on the device, copied while a GPU still computes the step before."""
        make = partial(self.task.inputs, batch, self.done, self.device)
        if self.copies is None or batch.target_moments.is_cuda:
            return make()
        computing = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self.copies):
            inputs = make()
        computing.wait_stream(self.copies)
        for value in tree_leaves(inputs):
            if isinstance(value, Tensor):
                value.record_stream(computing)  # its memory is not given away before
        return inputs

    def _total(self, inputs: Any) -> Tensor:
        return self.run(inputs).total

    def has_finite_weights(self) -> bool:
        """Whether the weights of this rank are finite; waits for the device."""
        finite = [local_shard(weight).isfinite().all() for weight in self.model.parameters()]
        return bool(torch.stack(finite).all())

    def save(self, folder: Path) -> None:
        """Write a checkpoint of this step below ``folder``. A collective."""
        config, skipped = self.config, self.dist.all_reduce_sum(self.skipped)
        checkpoint.save(
            folder,
            self.done,
            self.model,
            self.ema.model,
            self.optimizers,
            {"seed": config.seed, "skipped": skipped},
            config.keep_checkpoints,
            config.keep_every,
            self.dist,
        )

    def resume(self, folder: Path) -> bool:
        """Load the newest checkpoint below ``folder``; returns whether there is one. A collective.

        Raises XmdptError if it is damaged or of another model.
        """
        found = self.dist.run_on_main(lambda: checkpoint.latest(folder))
        if found is None:
            return False
        check = partial(check_model, self.model)
        state = checkpoint.load(
            found, self.model, self.ema.model, self.optimizers, self.dist, check
        )
        self.done = int(state["step"])
        self.skipped = int(state.get("skipped", 0)) if self.dist.is_main else 0  # of all ranks
        return True

    def ema_model(self) -> XMDPT | None:
        """The EMA model, whole, on rank 0; None on the others. A collective."""
        if self.dist.sharding != "fsdp":
            return self.ema.model if self.dist.is_main else None
        weights = model_state(self.ema.model)
        if not self.dist.is_main:
            return None
        model = self.task.build_model().eval().requires_grad_(False)
        model.load_state_dict(weights)
        return model.to(self.device)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks, whose weights FSDP2 gathers together."""
    return [module for module in model.modules() if isinstance(module, Block)]


def micro_batch(config: RunConfig, dist: Distributed) -> int:
    """Pairs that one process takes at a time; ConfigError if the batch does not divide."""
    if dist.sharding == "fsdp" and config.optimizer == "muon":
        chosen = f"auto (fsdp for {' and '.join(LARGE)})" if config.sharding == "auto" else "fsdp"
        dist.fail(
            ConfigError(
                f"muon needs whole matrices, and --sharding {chosen} splits them",
                "--sharding ddp, or another optimizer",
            )
        )
    size = dist.split_batch(config.batch_size, config.accumulate)
    if size < config.least_micro_batch:
        dist.fail(
            ConfigError(
                "contrastive_weight compares the pairs of a micro batch, which has only 1",
                "a larger --batch-size, or a smaller --accumulate",
            )
        )
    return size


def joined(parts: list[Losses]) -> Losses:
    """The losses of a step that was taken in equal parts."""
    if len(parts) == 1:
        return parts[0]
    rows: dict[str, Any] = {}
    for name in Losses._fields[1:]:
        values = [getattr(part, name) for part in parts]
        rows[name] = None if values[0] is None else torch.cat(values)
    return parts[0]._replace(total=torch.stack([part.total for part in parts]).mean(), **rows)
