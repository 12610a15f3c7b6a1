"""The Fréchet distance against its formula and published codes; the features against CFLD's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import ImageArray
from xmdpt_cli.metrics.features import (
    TF_INCEPTION,
    FeatureExtractor,
    inception_features,
    tensorflow_features,
    toy_features,
)
from xmdpt_cli.metrics.fid import FID, FeatureStatistics, frechet_distance
from xmdpt_cli.metrics.kid import KID
from xmdpt_cli.metrics.pixels import to_tensor

Shared = Callable[[str], Path]


@pytest.fixture(scope="module")
def toy_inception() -> FeatureExtractor:
    return inception_features("toy")


def accumulate(features: NDArray, batch: int = 37) -> FeatureStatistics:
    statistics = FeatureStatistics()
    for start in range(0, len(features), batch):
        statistics.update(features[start : start + batch])
    return statistics


def distance(a: NDArray, b: NDArray) -> float:
    x, y = accumulate(a), accumulate(b)
    return frechet_distance(x.mean, x.cov, y.mean, y.cov)


def blotches(seed: int, count: int, size: int = 64) -> list[ImageArray]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return [cv2.resize(c, (size, size), interpolation=cv2.INTER_NEAREST) for c in coarse]


def test_golden_features(shared: Shared) -> None:
    golden = json.loads(shared("golden/metrics/golden.json").read_text())["fid"]
    arrays = np.load(shared("golden/metrics/fid_features.npz"))
    real, fake = arrays["real"], arrays["fake"]
    assert distance(real, fake) == pytest.approx(golden["frechet_distance"], rel=1e-9)
    assert distance(real, real) == pytest.approx(0.0, abs=1e-9)
    few = distance(real, fake[:40])  # fewer features than dimensions: covariance of low rank
    expected = golden["rank_deficient_first_40_fake"]
    assert few == pytest.approx(expected, rel=golden["rank_deficient_tolerance"])


def test_frechet_distance_equals_the_formula_with_scipy_sqrtm() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(0)
    a = rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12))
    b = rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12)) + 0.5
    c1, c2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    shift = a.mean(0) - b.mean(0)
    expected = shift @ shift + np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real)
    assert distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_degenerate_gaussians() -> None:
    """Diagonal covariances: sum of (s1 - s2)^2; some standard deviations are 0."""
    s1, s2 = np.array([2.0, 0.0, 1.0, 0.0]), np.array([1.0, 3.0, 0.0, 0.0])
    mu = np.array([1.0, 0.0, 0.0, 2.0])
    got = frechet_distance(mu, np.diag(s1**2), np.zeros(4), np.diag(s2**2))
    assert got == pytest.approx(5 + 1 + 9 + 1, rel=1e-12)


def test_streaming_equals_numpy_and_keeps_small_variances_beside_large_means() -> None:
    features = np.random.default_rng(1).normal(1e4, 1e-3, (101, 5))
    statistics = accumulate(features, batch=10)
    assert statistics.count == 101
    np.testing.assert_allclose(statistics.mean, features.mean(0), rtol=1e-14)
    np.testing.assert_allclose(statistics.cov, np.cov(features, rowvar=False), rtol=0, atol=1e-14)


def inception_input(extractor: FeatureExtractor, image: ImageArray) -> Tensor:
    """The input of the first convolution."""
    seen: list[Tensor] = []
    first = extractor.network.Conv2d_1a_3x3
    assert isinstance(first, torch.nn.Module)

    def stop(_: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        seen.append(inputs[0])
        raise StopIteration

    hook = first.register_forward_pre_hook(stop)
    with pytest.raises(StopIteration):
        extractor([image])
    hook.remove()
    return seen[0]


def test_inception_input_equals_that_of_cfld(
    shared: Shared, toy_inception: FeatureExtractor
) -> None:
    golden = np.load(shared("golden/metrics/inception_input_golden.npz"))
    checked = 0
    for row, index in enumerate(golden["pairs"]):
        path = shared("golden/metrics/pairs") / f"{index:02d}_ref.png"
        if not path.exists():
            continue  # some pairs are photographs that are not shipped
        got = inception_input(toy_inception, np.asarray(Image.open(path).convert("RGB")))
        assert got.shape == (1, 3, 299, 299)
        points = got[0].numpy()[:, golden["rows"]][:, :, golden["cols"]]
        np.testing.assert_allclose(points, golden["values"][row], atol=1e-5)
        checked += 1
    assert checked == 2


def test_inception_input_range(toy_inception: FeatureExtractor) -> None:
    """ImageNet's mean colour becomes (mean - 0.5) / 0.5 + mean * std / 0.5, channel by channel."""
    grey = inception_input(toy_inception, np.full((64, 64, 3), 51, np.uint8))
    for channel, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        expected = (0.2 * std + mean - 0.5) / 0.5
        assert float(grey[0, channel].min()) == pytest.approx(expected, abs=1e-6)
        assert float(grey[0, channel].max()) == pytest.approx(expected, abs=1e-6)


def test_inception_from_a_file_equals_torchvision(tmp_path: Path) -> None:
    from torchvision.models import inception_v3

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        reference = inception_v3(
            weights=None, init_weights=False, aux_logits=True, transform_input=True
        ).eval()
    state = reference.state_dict()
    # as in torchvision's file, which is older than the batch norms' counters
    kept = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    path = tmp_path / "inception.pth"
    torch.save(kept, path)
    extractor = inception_features(path)
    names = (FID(extractor).name, KID(extractor).name)
    assert names == ("fid_tvinception", "kid_tvinception")
    assert "inception.pth sha256:" in extractor.weights
    assert "not the published file" in extractor.weights

    image = blotches(0, 1, 80)[0]
    pooled: list[Tensor] = []
    reference.avgpool.register_forward_hook(lambda module, inputs, output: pooled.append(output))
    unit = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        reference(torch.nn.functional.interpolate(unit, (299, 299), mode="bilinear"))
    features = extractor([image])
    assert features.shape == (1, 2048)
    np.testing.assert_allclose(features[0], pooled[0].flatten().numpy(), rtol=1e-5, atol=1e-7)


def test_random_networks_are_named_toy_and_deterministic(toy_inception: FeatureExtractor) -> None:
    toy = toy_features()
    assert (FID(toy).name, toy.toy) == ("fid_toyconv", True)
    assert (FID(toy_inception).name, toy_inception.toy) == ("fid_tvinception_toy", True)
    images = blotches(1, 2)
    before = torch.random.get_rng_state()
    np.testing.assert_array_equal(toy(images), toy_features()(images))
    assert torch.equal(before, torch.random.get_rng_state())
    features = toy_inception(images)
    assert features.shape == (2, 2048)
    assert np.isfinite(features).all()
    assert np.abs(features[0] - features[1]).max() > 1e-4


def test_toyconv_distance_grows_with_damage() -> None:
    """Blur, a colour cast and noise, each at two strengths."""
    toy = toy_features()
    fresh = blotches(3, 48)
    target = accumulate(toy(blotches(2, 48)))

    def fid(images: list[ImageArray]) -> float:
        own = accumulate(toy(images))
        return frechet_distance(own.mean, own.cov, target.mean, target.cov)

    rng = np.random.default_rng(4)
    base = fid(fresh)
    for damage in (
        lambda p, k: cv2.GaussianBlur(p, (0, 0), 2.0 * k),
        lambda p, k: np.clip(p + np.array([40 * k, 0, -40 * k]), 0, 255).astype(np.uint8),
        lambda p, k: np.clip(p + rng.normal(0, 25 * k, p.shape), 0, 255).astype(np.uint8),
    ):
        light, heavy = (fid([damage(p, k) for p in fresh]) for k in (1, 2))
        assert base < light < heavy


def test_features_do_not_depend_on_the_batches() -> None:
    toy = toy_features()
    images = blotches(5, 21, 48)
    fid = FID(toy)
    for start, stop in ((0, 1), (1, 16), (16, 21)):
        batch = to_tensor(images[start:stop])
        fid.update(batch, batch)
    features = np.concatenate([toy([image]) for image in images])
    np.testing.assert_allclose(fid.rows(), features, rtol=1e-5, atol=1e-7)
    assert toy.num_features == features.shape[1]
    fid.update(batch, batch)  # after they were read
    assert fid.rows().shape == (26, 224)


def test_the_tensorflow_network_equals_torch_fidelity(tmp_path: Path) -> None:
    """With the same random weights; images of 299 px reach it as they are."""
    toy = tensorflow_features("toy")
    assert (FID(toy).name, toy.toy) == ("fid_tfinception_toy", True)
    path = tmp_path / "weights.pth"
    torch.save(toy.network.state_dict(), path)
    loaded = tensorflow_features(path)
    assert FID(loaded).name == "fid_tfinception"
    assert "not the published file" in loaded.weights
    package = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    reference = package.FeatureExtractorInceptionV3(
        "reference", ["2048"], feature_extractor_weights_path=path
    )
    image = blotches(9, 1, 299)[0]
    with torch.inference_mode():
        (expected,) = reference(torch.from_numpy(image).permute(2, 0, 1)[None])
    np.testing.assert_allclose(loaded([image]), expected.numpy(), rtol=1e-6)
    assert np.abs(expected.numpy()).max() > 0
    torch.save({"conv.weight": torch.zeros(1)}, path)
    with pytest.raises(XmdptError, match="not the weights of torch-fidelity's Inception") as caught:
        tensorflow_features(path)
    assert TF_INCEPTION.url in caught.value.hint


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_invalid_weight_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"this is no file of weights, only some text")
    with pytest.raises(XmdptError, match=name):
        inception_features(path)
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(XmdptError, match="not the weights of torchvision's inception_v3"):
        inception_features(tmp_path / "other.pth")
