"""The model whose weights a run starts from, in place of random ones: ``xmdpt train --init-from``.

Only the weights are taken: the optimizer starts anew, and the settings are the run's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.model import XMDPT
from xmdpt_cli.model.checkpoint import InitialModel
from xmdpt_cli.model.config import built_with
from xmdpt_cli.model.xmdpt import SIZES
from xmdpt_cli.sampling.dataset_images import check_features
from xmdpt_cli.sampling.hub import fetch, model_name
from xmdpt_cli.sampling.sampler import Sampler
from xmdpt_cli.training.config import TrainConfig

#: networks that only training uses, by the beginning of their parameters' names -> their settings
TRAINING_ONLY = {
    "mipnet.": ("predictor",),
    "repa_projector.": ("repa_width", "repa_projection"),
}
#: settings of a model that no weight follows from
FREE = {"mask_ratio", "repa_layer", "vae_factor", *(s for v in TRAINING_ONLY.values() for s in v)}
#: settings of a model that follow from the dataset
OF_DATA = {"latent_size", "latent_channels"}
OF_DATA |= {"pose_length", "pose_width", "source_length", "source_width"}


@dataclass(frozen=True)
class InitialWeights:
    """A model to start from. ``source``: its folder or hub id. ``sampler``: None for a resumed run,
    whose checkpoint has all weights."""

    record: InitialModel
    source: str
    sampler: Sampler | None = None

    def identity(self) -> dict[str, Any]:
        """The entries of run.json; see ``run_folder.RunRecord``."""
        exists = Path(self.source).exists()
        return {
            "initial": self.record,
            "init_from": recorded_path(self.source) if exists else self.source,
        }

    def load_into(self, model: XMDPT) -> None:
        """Replace the model's weights; networks of ``TRAINING_ONLY`` that the initial model does
        not have, or has in another form, keep theirs."""
        if self.sampler is None or model.tdnet.pos_embed.is_meta:
            return
        known = self.sampler.model.state_dict()
        kept = tuple(self._random_parts(model))
        own = model.state_dict()
        model.load_state_dict(
            {name: own[name] if name.startswith(kept) else known[name] for name in own}
        )

    def notes(self, model: XMDPT, config: TrainConfig, dataset: PairDataset) -> list[str]:
        """Messages for the user; XmdptError if the weights do not fit the run's model, or were
        trained on other features than the dataset's."""
        if self.sampler is None:
            return []
        self._check_fit(model)
        check_features(self.sampler, dataset)
        notes = []
        if config.predictor != "none" and "mipnet." in self._random_parts(model):
            notes.append(
                f"the predictor of masked tokens starts from random weights: {self.source} has "
                "none of this form (--predictor none trains without it)"
            )
        learned = {key: self.sampler.metadata[key] for key in ("prediction", "schedule")}
        new = {key: getattr(config, key) for key in learned}
        if new != learned:
            same = " ".join(f"--{key} {value}" for key, value in learned.items())
            notes.append(
                f"{self.source} was trained with {_named(learned)}, the run has {_named(new)}, "
                f"which the model has to learn first (to keep the model's: {same})"
            )
        return notes

    def _random_parts(self, model: XMDPT) -> list[str]:
        """The beginnings of the names of parameters that are not taken from the initial model."""
        assert self.sampler is not None
        own, has = built_with(model), built_with(self.sampler.model)
        return [
            part
            for part, settings in TRAINING_ONLY.items()
            if any(own[setting] != has[setting] for setting in settings)
        ]

    def _check_fit(self, model: XMDPT) -> None:
        assert self.sampler is not None
        own, has = _shaping(model), _shaping(self.sampler.model)
        differs = {name: value for name, value in has.items() if own[name] != value}
        if not differs:
            return
        named = "; ".join(f"{name} {value}, not {own[name]}" for name, value in differs.items())
        if OF_DATA & set(differs):
            hint = "prepare the dataset with the encoders and at the size of that model"
        else:
            hint = f"train the same model: {' '.join(map(_option, differs, differs.values()))}"
        raise XmdptError(
            f"cannot start from {self.source}, which is another model than that of the "
            f"run: {named}",
            hint,
        )


def load_initial_weights(source: str | Path) -> InitialWeights:
    """The model in a model folder, a run's folder or on the hub.

    Raises XmdptError if it is not a model, or is a distilled one.
    """
    sampler = Sampler.load(fetch(source, option="--init-from"), "cpu", "fp32")
    distilled = sampler.metadata.get("distilled")
    if distilled is not None:
        raise XmdptError(
            f"cannot start from {source}: it is a distilled model, which xmdpt train cannot train",
            "name the model that it was distilled from "
            f"({distilled['teacher']['name']}): --init-from DIR",
        )
    record: InitialModel = {
        "sha256": sampler.identity,
        "name": model_name(source),
        "trained_steps": sampler.metadata["trained_steps"],
    }
    return InitialWeights(record, str(source), sampler)


def recorded_path(source: str | Path) -> str:
    """The path of a folder on this machine, as a run records it."""
    return str(Path(source).resolve())


def _shaping(model: XMDPT) -> dict[str, Any]:
    """The settings that weights follow from, with the size by its name."""
    settings = {name: value for name, value in built_with(model).items() if name not in FREE}
    built = tuple(settings.pop(name) for name in ("depth", "width", "heads"))
    names = {values: name for name, values in SIZES.items()}
    return {"size": names.get(built, built), **settings}


def _named(settings: Mapping[str, Any]) -> str:
    return " and ".join(f"{name} {value}" for name, value in settings.items())


def _option(name: str, value: Any) -> str:
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    return f"--{option} {value}"
