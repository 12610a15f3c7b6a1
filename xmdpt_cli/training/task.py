"""What a run trains: the part in which ``xmdpt train`` and ``xmdpt distill`` differ.

Trainer, loop, run folder, validation and estimates are written for a ``Task``.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.diffusion import Schedule, sample
from xmdpt_cli.model import XMDPT
from xmdpt_cli.training.build_model import build_model
from xmdpt_cli.training.checks import check_dataset
from xmdpt_cli.training.conditions import conditions_of
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.initial_weights import InitialWeights
from xmdpt_cli.training.made_up_inputs import made_up_inputs
from xmdpt_cli.training.run_config import RunConfig
from xmdpt_cli.training.step import Step, TrainStep, step_inputs
from xmdpt_cli.training.step_noise import StepBatch
from xmdpt_cli.training.validation_metrics import validation_losses
from xmdpt_cli.training.validation_pairs import ValidationPairs

T = TypeVar("T", bound="Task")

LARGE = ("L", "XL")  # sizes that several processes train by FSDP2 with sharding "auto"


@dataclass(frozen=True)
class Task(ABC):
    """A model, its loss, and what is written about it; ``config``: how it is trained."""

    config: RunConfig
    dataset: PairDataset

    #: name of the command, and of the table with its settings in config.toml
    command: ClassVar[str]

    def replace(self: T, **settings: Any) -> T:
        """The same task with other settings."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, **settings))

    @cached_property
    def scale(self) -> float:
        """The scale of the dataset's latents."""
        return float(self.dataset.manifest["encoders"]["vae"]["scale"])

    @abstractmethod
    def notes(self) -> list[str]:
        """Messages for the user before the run starts; XmdptError if the dataset does not fit."""

    @abstractmethod
    def build_model(self) -> XMDPT:
        """The model as it is before the first step."""

    @abstractmethod
    def make_step(self, model: XMDPT, device: torch.device) -> Step:
        """The step that trains ``model``: the output of ``inputs`` -> losses. A model on the meta
        device, which has no data, gives a step without data."""

    @abstractmethod
    def inputs(self, batch: StepBatch, step: int, device: torch.device) -> Any:
        """The inputs of optimizer step ``step``, on ``device``."""

    @abstractmethod
    def made_up_inputs(self, model: XMDPT, count: int, device: torch.device) -> Any:
        """Random inputs of ``count`` pairs, in the dataset's shapes."""

    def of_mean_cost(self: T) -> T:
        """A task whose steps have the same shapes and, each, the mean cost of this one's."""
        return self

    def identity(self) -> dict[str, Any]:
        """What run.json holds besides data and settings; see ``run_folder.RunRecord``."""
        return {}

    @abstractmethod
    def metadata(self) -> dict[str, Any]:
        """What xmdpt.json says besides the data and the number of steps."""

    # validation

    @property
    @abstractmethod
    def pose_maps(self) -> bool:
        """Whether the model takes pose maps (``conditioning="tokens"``)."""

    @abstractmethod
    def sample(self, model: XMDPT, pairs: ValidationPairs, noise: Tensor) -> Tensor:
        """Latents (N, C, h, w) by the model's default sampling, from ``noise``."""

    def reference(self, pairs: ValidationPairs, noise: Tensor) -> Tensor | None:
        """Latents (N, C, h, w) of another model, which are shown beside the model's; None: there
        is no other model."""
        return None

    @abstractmethod
    def losses(self, model: XMDPT, pairs: ValidationPairs) -> dict[str, float]:
        """Losses by name, ``val_loss`` among them: means over the pairs."""


@dataclass(frozen=True)
class TrainTask(Task):
    """``xmdpt train``: X-MDPT from random weights, or from those of the model ``initial``."""

    initial: InitialWeights | None = None

    command = "train"
    config: TrainConfig

    def notes(self) -> list[str]:
        config, dataset, initial = self.config, self.dataset, self.initial
        notes = check_dataset(config, dataset.manifest, dataset.path)
        if initial is None:
            return [*config.doubts(), *notes]
        with torch.device("meta"):
            shapes = build_model(config, dataset)
        doubts = config.doubts(f"the weights of {initial.source}")
        return [*doubts, *notes, *initial.notes(shapes, config, dataset)]

    def build_model(self) -> XMDPT:
        model = build_model(self.config, self.dataset)
        if self.initial is not None:
            self.initial.load_into(model)
        return model

    def identity(self) -> dict[str, Any]:
        return {} if self.initial is None else self.initial.identity()

    def make_step(self, model: XMDPT, device: torch.device) -> TrainStep:
        return TrainStep(model, self.config, self._schedule(device))

    def inputs(self, batch: StepBatch, step: int, device: torch.device) -> Any:
        return step_inputs(batch, self.config, step, self.scale, device)

    def made_up_inputs(self, model: XMDPT, count: int, device: torch.device) -> Any:
        return made_up_inputs(self.config, self.dataset, model, count, device)

    def of_mean_cost(self) -> TrainTask:
        """With the mean of its mask ratios in every step."""
        ratio = self.config.mask_ratio + self.config.mask_span / 2
        return self.replace(mask_ratio=ratio, mask_span=0.0)

    def metadata(self) -> dict[str, Any]:
        config = self.config
        initial = {} if self.initial is None else {"initial": self.initial.record}
        return {
            **initial,
            "schedule": config.schedule,
            "prediction": config.prediction,
            "sampling": {
                "steps": config.sampling_steps,
                "solver": config.sampling_solver,
                "guidance": config.default_guidance,
                "power": config.power,
            },
        }

    @property
    def pose_maps(self) -> bool:
        return self.config.conditioning == "tokens"

    def sample(self, model: XMDPT, pairs: ValidationPairs, noise: Tensor) -> Tensor:
        schedule = self._schedule(noise.device)
        return sample_pairs(model, schedule, self.metadata()["sampling"], pairs, noise)

    def losses(self, model: XMDPT, pairs: ValidationPairs) -> dict[str, float]:
        device = model.tdnet.pos_embed.device
        return validation_losses(model, pairs, self._schedule(device), device)

    def _schedule(self, device: torch.device) -> Schedule:
        return Schedule(self.config.schedule, self.config.prediction).to(device)


def sample_pairs(
    model: XMDPT,
    schedule: Schedule,
    settings: Mapping[str, Any],
    pairs: ValidationPairs,
    noise: Tensor,
) -> Tensor:
    """Latents (N, C, h, w) of the pairs. ``settings``: sampling defaults, as in xmdpt.json."""
    condition, tokens = conditions_of(model, pairs)
    return sample(
        model,
        noise,
        condition,
        tokens=tokens,
        schedule=schedule,
        steps=settings["steps"],
        solver=settings.get("solver", "ddim"),
        guidance=settings["guidance"],
        power=settings["power"],
    )
