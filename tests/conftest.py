"""What tests share: the place of the real data, and the rule that nothing is fetched."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

# Two test processes share two cores: a thread each. With more, threads wait for one another (ten
# times slower where others work on the machine too). torchrun gives its processes one thread too,
# and a network's rounding depends on it.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
_CACHE = tempfile.mkdtemp(prefix="xmdpt-tests-")  # nothing stays in the user's
os.environ["XMDPT_CACHE"] = _CACHE
os.environ["TORCH_HOME"] = f"{_CACHE}/torch"
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)

REPO = Path(__file__).resolve().parents[1]
# Real photographs and published numbers are beside the repository, never in it (licences).
SHARED = Path(os.environ.get("XMDPT_SHARED", REPO.parent / "shared"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no process ends with one of them alone."""
    first = ("training", "bench", "cli", "docs", "tests", "ui", "vae_training")
    items.sort(key=lambda item: item.path.parent.name not in first)


def pytest_collection_finish() -> None:
    """Take the libraries' objects, over half a million, out of garbage collection: a tenth of the
    time of the tests."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or bindings report all they hold as leaked


@pytest.fixture(autouse=True)
def _own_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands write into the current folder by default: each test has its own."""
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))


@pytest.fixture
def short_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dry runs measure training steps of 0.05 s, not of 2 s."""
    monkeypatch.setattr("xmdpt_cli.training.footprint.LONG", 0.05)


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """``shared("golden/dev_a.safetensors")``: that path, or the test is skipped by name."""

    def find(relative: str) -> Path:
        path = SHARED / relative
        if not path.exists():
            pytest.skip(f"real data not here: shared/{relative}")
        return path

    return find
