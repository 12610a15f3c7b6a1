"""``xmdpt distill``: what is trained, for the loop of ``xmdpt_cli.training``."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from xmdpt_cli.distillation.config import DistillConfig
from xmdpt_cli.distillation.guidance import GuidanceStep
from xmdpt_cli.distillation.inputs import (
    DistillInputs,
    distill_inputs,
    held_out_inputs,
    made_up_inputs,
)
from xmdpt_cli.distillation.step import DistillStep
from xmdpt_cli.distillation.steps import StepsStep
from xmdpt_cli.distillation.student import build_student
from xmdpt_cli.distillation.teacher import Teacher
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.model import XMDPT
from xmdpt_cli.model.config import built_with
from xmdpt_cli.sampling.dataset_images import check_features
from xmdpt_cli.sampling.sampler import Sampler
from xmdpt_cli.training.step_noise import StepBatch
from xmdpt_cli.training.task import Task, sample_pairs
from xmdpt_cli.training.validation_metrics import LOSS_SEED
from xmdpt_cli.training.validation_pairs import ValidationPairs

STEPS: dict[str, type[DistillStep]] = {"guidance": GuidanceStep, "steps": StepsStep}
VALIDATION_SAMPLES = 4  # of the step's random numbers, for each validation pair


@dataclass(frozen=True)
class DistillTask(Task):
    """A student and its teacher. ``name``: the teacher's, in the student's metadata."""

    teacher: Sampler
    name: str

    command = "distill"
    config: DistillConfig

    def notes(self) -> list[str]:
        check_features(self.teacher, self.dataset)
        self._check_shapes()
        return self.config.doubts()

    def _check_shapes(self) -> None:
        """XmdptError if the dataset's features do not have the shapes of the teacher's inputs."""
        model, column = self.teacher.model, self.dataset.column
        channels, side, _ = model.latent_shape
        expected = {
            "moments": (2 * channels, side, side),
            "pose_tokens": model.canet.pose_shape,
            "source_tokens": model.canet.source_shape,
        }
        for name, shape in expected.items():
            if column(name).shape != tuple(shape):
                raise XmdptError(
                    f"{self.dataset.path} has {name} of shape {tuple(column(name).shape)}, the "
                    f"teacher takes {tuple(shape)}",
                    "prepare the dataset with the encoders that the teacher was trained with",
                )

    def build_model(self) -> XMDPT:
        return build_student(self.teacher.model, two_predictions=self.config.stage == "steps")

    def make_step(self, model: XMDPT, device: torch.device) -> DistillStep:
        if model.tdnet.pos_embed.is_meta:
            with torch.device("meta"):
                frozen = XMDPT(**built_with(self.teacher.model))
        else:  # a copy: several processes shard it with the student
            frozen = copy.deepcopy(self.teacher.model).to(device)
        return self._step(model, frozen, device)

    def _step(self, model: XMDPT, teacher: XMDPT, device: torch.device) -> DistillStep:
        schedule = self.teacher.schedule.to(device)
        power = float(self.teacher.metadata["sampling"]["power"])
        return STEPS[self.config.stage](model, Teacher(teacher, schedule), self.config, power)

    def inputs(self, batch: StepBatch, step: int, device: torch.device) -> DistillInputs:
        return distill_inputs(batch, self.scale, device)

    def made_up_inputs(self, model: XMDPT, count: int, device: torch.device) -> DistillInputs:
        return made_up_inputs(self.dataset, model, count, device)

    def identity(self) -> dict[str, Any]:
        folder = self.teacher.folder
        place = {} if folder is None else {"teacher_folder": str(folder.resolve())}
        return {"teacher": self.teacher.identity, **place}

    def metadata(self) -> dict[str, Any]:
        config, teacher = self.config, self.teacher.metadata
        steps = config.student_steps if config.stage == "steps" else None
        return {
            "schedule": teacher["schedule"],
            "prediction": self.teacher.schedule.of_velocity().prediction,
            "sampling": self._sampling(),
            "distilled": {
                "stage": config.stage,
                "steps": steps,
                "guidance": [config.min_guidance, config.max_guidance],
                "power": float(teacher["sampling"]["power"]),
                "loss": STEPS[config.stage].name,
                "teacher": {
                    "sha256": self.teacher.identity,
                    "name": self.name,
                    "trained_steps": teacher["trained_steps"],
                    "conditioning": self.teacher.model.conditioning,
                    "prediction": teacher["prediction"],
                },
            },
        }

    def _sampling(self) -> dict[str, Any]:
        """The student's sampling defaults: the teacher's, in its own number of steps."""
        defaults = dict(self.teacher.metadata["sampling"])
        if self.config.stage == "steps":
            defaults |= {"steps": self.config.student_steps, "solver": StepsStep.solver}
        return defaults

    # validation

    @property
    def pose_maps(self) -> bool:
        return self.teacher.model.conditioning == "tokens"

    def sample(self, model: XMDPT, pairs: ValidationPairs, noise: Tensor) -> Tensor:
        schedule = self.teacher.schedule.of_velocity().to(noise.device)
        return sample_pairs(model, schedule, self._sampling(), pairs, noise)

    def reference(self, pairs: ValidationPairs, noise: Tensor) -> Tensor:
        """The teacher's latents, by its own sampling defaults."""
        schedule = self.teacher.schedule.to(noise.device)
        model = self._teacher_on(noise.device)
        return sample_pairs(model, schedule, self.teacher.metadata["sampling"], pairs, noise)

    @torch.no_grad()
    def losses(self, model: XMDPT, pairs: ValidationPairs) -> dict[str, float]:
        """``val_loss``: the distillation loss, in fp32, over four samples of the random numbers."""
        device, tokens = model.tdnet.pos_embed.device, model.tdnet.grid**2
        step = self._step(model, self._teacher_on(device), device)
        errors = [
            step(held_out_inputs(part, LOSS_SEED + sample, tokens)).mse
            for part in pairs.chunks(device)
            for sample in range(VALIDATION_SAMPLES)
        ]
        return {"val_loss": float(torch.cat(errors).double().mean())}

    def _teacher_on(self, device: torch.device) -> XMDPT:
        """The teacher for validation: on the CPU the loaded one, else one more copy."""
        known = self.teacher.model
        if device.type != "cpu" and device not in self._copies:
            self._copies[device] = copy.deepcopy(known).to(device)
        return self._copies.get(device, known)

    @cached_property
    def _copies(self) -> dict[torch.device, XMDPT]:
        return {}
