"""Toy models of every form, made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from stick_people import FIGURE
from toy_models import make_encoders, make_model, person, write_pose

from xmdpt_cli.sampling.pipeline import XMDPTPipeline


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoders(tmp_path_factory.mktemp("toy") / "encoders")


@pytest.fixture(scope="session")
def model_of(encoders: Path) -> Callable[[str], Path]:
    """``model_of("keys")``: the folder of that model, with the encoders beside its data."""
    return cache(lambda form: make_model(encoders.parent / form, encoders, form))


@pytest.fixture(scope="session")
def pipe_of(model_of: Callable[[str], Path]) -> Callable[[str], XMDPTPipeline]:
    return cache(lambda form: XMDPTPipeline.from_pretrained(model_of(form)))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """person.png with person.json, and pose.json."""
    person().save(tmp_path / "person.png")
    write_pose(tmp_path / "person.json", FIGURE)
    write_pose(tmp_path / "pose.json", FIGURE[:, :] * (0.9, 1) + (0.05, 0))
    return tmp_path
