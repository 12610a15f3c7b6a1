"""The small dataset, made once a module."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_data import make_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("train"))
