"""The small dataset and a teacher that fits it, made once a module."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_data import make_data
from small_teacher import make_teacher


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("distill"))


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher(tmp_path_factory.mktemp("teacher") / "wise", data)
