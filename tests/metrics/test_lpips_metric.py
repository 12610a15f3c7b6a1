"""LPIPS against golden values and against the lpips package with the same trunk."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import ImageArray
from xmdpt_cli.metrics.lpips_metric import LpipsNetwork

Shared = Callable[[str], Path]


@pytest.fixture(scope="module")
def reference() -> lpips.LPIPS:
    """The package's network with a random trunk of torchvision."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package's call of torchvision is deprecated
        torch.manual_seed(5)
        return lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()


def image(seed: int) -> ImageArray:
    return np.random.default_rng(seed).integers(0, 256, (64, 48, 3), dtype=np.uint8)


def trunk_of(network: lpips.LPIPS) -> dict[str, torch.Tensor]:
    """The trunk under torchvision's names."""
    trunk = network.net.state_dict()
    return {f"features.{key.split('.', 1)[1]}": value for key, value in trunk.items()}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_lpips_equals_the_lpips_package(
    tmp_path: Path, reference: lpips.LPIPS, suffix: str
) -> None:
    path = tmp_path / f"alexnet{suffix}"
    # the classifier of torchvision's whole file is of no use here
    state = {**trunk_of(reference), "classifier.1.weight": torch.zeros(2, 2)}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    metric = LpipsNetwork(path)
    assert (metric.metric, metric.toy) == ("lpips_alex_v0.1", False)
    assert f"alexnet{suffix} sha256:" in metric.weights

    candidates, ground_truth = [image(1), image(2), image(3)], image(3)
    signed = [
        torch.from_numpy(p.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        for p in (*candidates, ground_truth)
    ]
    with torch.inference_mode():
        expected = [float(reference(s, signed[-1])) for s in signed[:-1]]
    assert [metric.distance(c, ground_truth) for c in candidates] == pytest.approx(
        expected, rel=1e-5
    )
    assert metric.distance(ground_truth, ground_truth) == 0.0


def test_the_toy_trunk_is_deterministic_and_grows_with_damage() -> None:
    before = torch.random.get_rng_state()
    toy = LpipsNetwork("toy")
    assert torch.equal(before, torch.random.get_rng_state())
    assert (toy.metric, toy.toy) == ("lpips_alex_v0.1_toy", True)
    ground_truth = np.full((64, 64, 3), 200, np.uint8)
    ground_truth[16:48, 24:40] = (180, 30, 40)
    rng = np.random.default_rng(7)
    light, heavy = (
        np.clip(ground_truth + rng.normal(0, sigma, ground_truth.shape), 0, 255).astype(np.uint8)
        for sigma in (10, 60)
    )
    assert (
        toy.distance(ground_truth, ground_truth)
        == 0.0
        < toy.distance(light, ground_truth)
        < toy.distance(heavy, ground_truth)
    )
    assert LpipsNetwork("toy").distance(heavy, ground_truth) == toy.distance(heavy, ground_truth)


def test_incomplete_weights_are_refused(tmp_path: Path, reference: lpips.LPIPS) -> None:
    incomplete = trunk_of(reference)
    del incomplete["features.8.bias"]
    torch.save(incomplete, tmp_path / "incomplete.pth")
    with pytest.raises(XmdptError, match=r"not the weights of torchvision's alexnet: .*incomplete"):
        LpipsNetwork(tmp_path / "incomplete.pth")
