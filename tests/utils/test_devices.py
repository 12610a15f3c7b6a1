"""The choice of a device, for the commands and the library."""

from __future__ import annotations

import os

import pytest
import torch

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.utils import devices
from xmdpt_cli.utils.devices import busy_load, pick_device


def machine(monkeypatch: pytest.MonkeyPatch, gpus: int, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def test_auto_is_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 0, mps=True)
    assert pick_device() == "cpu"  # mps is untested: used only on request
    machine(monkeypatch, 2)
    assert pick_device("auto") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick_device("auto") == "cuda:1"


def test_existing_devices_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 2, mps=True)
    for name in ("cpu", "cuda", "cuda:1", "mps"):
        assert pick_device(name) == name
    assert pick_device(torch.device("cuda:1")) == "cuda:1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "no such device: 'gpu'"),
        ("cuda:1", "cuda:1 not found: this machine has 1 CUDA GPUs"),
        ("mps", "mps not found"),
        ("meta", "meta is not supported"),
    ],
)
def test_missing_devices_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    machine(monkeypatch, 1)
    with pytest.raises(ConfigError, match=message) as err:
        pick_device(name)
    assert err.value.hint.startswith("use auto, cpu")


def test_load_above_the_processors_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    for count, load, running, found in (
        (8, 9.1, 10, 9.1),
        (8, 9.1, None, 9.1),  # not Linux
        (8, 9.1, 2, None),  # what made the load has ended
        (8, 8.0, 10, None),
        (2, 1.0, 2, 1.0),  # one program beside two threads
        (2, 1.0, 1, None),
        (2, 0.5, 2, None),  # it has just started
        (2, 0.0, 1, None),
    ):
        monkeypatch.setattr(devices.os, "cpu_count", lambda count=count: count)
        monkeypatch.setattr(devices.os, "getloadavg", lambda load=load: (load, 50.0, 50.0))
        monkeypatch.setattr(devices, "_runnable", lambda running=running: running)
        assert busy_load() == found
    monkeypatch.delattr(os, "getloadavg")
    assert busy_load() is None
