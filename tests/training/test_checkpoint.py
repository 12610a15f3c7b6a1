"""Checkpoints: exact, complete or absent; a bad write keeps the older one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.training import checkpoint
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.optimizer import make_optimizers


class Counting(torch.optim.Optimizer):
    """Momentum whose state holds a plain number and a type of its own, as optimizers may."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["times"] = state.get("times", 0) + 1
                state["seen"] = state.get("seen", torch.zeros(())) + parameter.grad.norm()
                state["sum"] = state.get("sum", 0) + parameter.grad
                parameter.sub_(state["sum"] / state["times"], alpha=group["lr"])


class Run:
    """A network of one matrix and one vector, its EMA, and two optimizers."""

    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net, self.average = nn.Linear(5, 3), nn.Linear(5, 3)
        self.optimizers = [
            torch.optim.AdamW([self.net.weight], lr=0.1, fused=True),
            Counting([self.net.bias]),
        ]

    def step(self, number: int) -> None:
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(number))
        self.net.zero_grad()
        self.net(x).square().sum().backward()
        for optimizer in self.optimizers:
            optimizer.step()
        with torch.no_grad():
            for ours, theirs in zip(self.average.parameters(), self.net.parameters(), strict=True):
                ours.lerp_(theirs, 0.1)

    def save(self, folder: Path, step: int, keep: int = 2, keep_every: int = 0) -> Path:
        state = {"skipped": 3}
        return checkpoint.save(
            folder, step, self.net, self.average, self.optimizers, state, keep, keep_every
        )

    def load(self, path: Path) -> dict[str, Any]:
        return checkpoint.load(path, self.net, self.average, self.optimizers)

    def everything(self) -> list[Any]:
        found: list[Any] = [*self.net.parameters(), *self.average.parameters()]
        for optimizer in self.optimizers:
            for state in optimizer.state.values():
                found += [state[key] for key in sorted(state)]
        return found


def equal(a: Run, b: Run) -> bool:
    pairs = list(zip(a.everything(), b.everything(), strict=True))
    return len(pairs) == 4 + 3 + 3 and all(
        type(x) is type(y) and (torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y)
        for x, y in pairs
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_all_state_is_restored_to_the_bit(tmp_path: Path) -> None:
    run, again = Run(), Run(seed=1)
    for step in range(3):
        run.step(step)
    path = run.save(tmp_path, 3)
    state = again.load(path)
    assert (state["step"], state["skipped"]) == (3, 3)
    assert equal(run, again)
    run.step(3), again.step(3)
    assert equal(run, again)


def test_old_checkpoints_are_removed_except_the_kept_ones(tmp_path: Path) -> None:
    run = Run()
    run.step(0)
    for step in range(10, 100, 10):
        run.save(tmp_path, step, keep=2, keep_every=40)
    kept = ["step_0000040", "step_0000080", "step_0000090"]
    assert names(tmp_path) == ["latest", *kept]
    assert (tmp_path / "latest").read_text() == "step_0000090"
    assert checkpoint.latest(tmp_path) == tmp_path / "step_0000090"


@pytest.mark.parametrize("file", ["model", "ema", "optimizer"])
def test_a_flipped_bit_is_found_with_a_hint(tmp_path: Path, file: str) -> None:
    run = Run()
    run.step(0)
    run.save(tmp_path, 1)
    newest = run.save(tmp_path, 2)
    bad = newest / f"{file}.safetensors"
    data = bytearray(bad.read_bytes())
    data[-3] ^= 1  # in the values, where no parser of the file notices it
    bad.write_bytes(data)
    again = Run(seed=1)
    before = [p.clone() for p in again.net.parameters()]
    with pytest.raises(XmdptError, match=rf"step_0000002.*{bad.name}.*sha256") as caught:
        again.load(newest)
    assert all(map(torch.equal, before, again.net.parameters()))
    command, _, then = caught.value.hint.partition("  # ")
    assert command == f"rm -r {newest}"
    assert "resumes from step_0000001" in then
    shutil.rmtree(newest)
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert again.load(found)["step"] == 1


@pytest.mark.parametrize("harm", ["cut", "gone", "header"])
def test_other_damage_is_named(tmp_path: Path, harm: str) -> None:
    run = Run()
    run.step(0)
    path = run.save(tmp_path, 1)
    bad = path / "ema.safetensors"
    if harm == "gone":
        bad.unlink()
    else:
        data = bad.read_bytes()
        bad.write_bytes(data[:-1] if harm == "cut" else b"\xff" * 8 + data[8:])
    with pytest.raises(XmdptError, match=r"ema\.safetensors") as caught:
        Run().load(path)
    assert "starts anew" in caught.value.hint


def test_a_bad_write_keeps_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run()
    run.step(0)
    run.save(tmp_path, 1, keep=1)

    def failing_disk(tensors: dict[str, torch.Tensor], file: Path) -> None:
        save_file(tensors, file)
        if file.name == "optimizer.safetensors":
            data = bytearray(file.read_bytes())
            data[-1] ^= 128
            file.write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", failing_disk)
        with pytest.raises(XmdptError, match=r"step_0000002: optimizer\.safetensors reads back"):
            run.save(tmp_path, 2, keep=1)
    assert names(tmp_path) == ["latest", "step_0000001"]
    assert checkpoint.verify(tmp_path / "step_0000001") == ""
    run.save(tmp_path, 3, keep=1)
    assert names(tmp_path) == ["latest", "step_0000003"]


def test_nan_weights_can_be_saved(tmp_path: Path) -> None:
    run = Run()
    run.step(0)
    with torch.no_grad():
        run.net.weight[0, 0] = float("nan")
    path = run.save(tmp_path, 1)
    assert load_file(path / "model.safetensors")["weight"][0, 0].isnan()


def test_partial_checkpoints_are_ignored_and_removed(tmp_path: Path) -> None:
    run = Run()
    run.step(0)
    whole = run.save(tmp_path, 1)
    for left in (".step_0000002.part", ".step_0000000.old"):
        shutil.copytree(whole, tmp_path / left)
    assert checkpoint.latest(tmp_path) == whole
    run.save(tmp_path, 3)
    assert names(tmp_path) == ["latest", "step_0000001", "step_0000003"]


def test_checkpoints_of_another_model_are_refused(tmp_path: Path) -> None:
    run = Run()
    run.step(0)
    path = run.save(tmp_path, 1)
    other = nn.Linear(5, 4)
    with pytest.raises(XmdptError, match=r"first bias: \(3,\), expected \(4,\)"):
        checkpoint.load(path, other, nn.Linear(5, 4), [torch.optim.AdamW(other.parameters())])


def test_checkpoints_of_an_earlier_format_are_refused(tmp_path: Path) -> None:
    run = Run()
    run.step(0)
    path = run.save(tmp_path, 1)
    state = json.loads((path / "state.json").read_text())
    del state["files"]
    (path / "state.json").write_text(json.dumps(state))
    with pytest.raises(XmdptError, match=r"cannot continue from .*step_0000001.*files"):
        Run(seed=1).load(path)


def test_a_training_without_ema_saves_and_resumes(tmp_path: Path) -> None:
    run, again = Run(), Run(seed=1)
    run.step(0)
    path = checkpoint.save(tmp_path, 1, run.net, None, run.optimizers, {}, 1)
    assert not (path / "ema.safetensors").exists()
    checkpoint.load(path, again.net, None, again.optimizers)
    again.average.load_state_dict(run.average.state_dict())
    assert equal(run, again)
    with pytest.raises(XmdptError, match=r"has no ema\.safetensors"):
        again.load(path)


@pytest.mark.parametrize("optimizer", ["adamw", "adan", "muon"])
def test_every_optimizer_resumes_to_the_bit(tmp_path: Path, optimizer: str) -> None:
    """Adan of timm counts its steps in the parameter group, the others in each state."""
    config = TrainConfig(optimizer=optimizer, learning_rate=0.01, weight_decay=0.1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.ModuleDict({"attention": nn.Linear(4, 8), "mlp": nn.Linear(8, 4)})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.block["mlp"](self.block["attention"](x).tanh())
            return out

    def step(net: Net, optimizers: list[torch.optim.Optimizer], number: int) -> None:
        x = torch.randn(4, 4, generator=torch.Generator().manual_seed(number))
        net.zero_grad()
        net(x).square().sum().backward()
        for each in optimizers:
            each.step()

    net, again = Net(), Net()
    first, second = make_optimizers(net, config), make_optimizers(again, config)
    assert len(first) == (2 if optimizer == "muon" else 1)
    for number in range(3):
        step(net, first, number)
    path = checkpoint.save(tmp_path, 3, net, None, first, {}, 1)
    checkpoint.load(path, again, None, second)
    for number in range(3, 6):
        step(net, first, number)
        step(again, second, number)
    assert all(map(torch.equal, net.parameters(), again.parameters()))
