"""Every metric as a torchmetrics.Metric: recorded values, batches, collections, ranks."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import metric_ranks
import numpy as np
import pytest
import torch
from forked import run_ranks
from metric_ranks import COUNT, images, metrics
from PIL import Image
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.metrics import (
    FID,
    KID,
    L1,
    LPIPS,
    MAE,
    PSNR,
    SSIM256,
    SSIMW51,
    FeatureDistribution,
    LpipsNetwork,
    PairMetric,
    get_protocol,
    protocol_metrics,
)
from xmdpt_cli.metrics.features import toy_features
from xmdpt_cli.metrics.fid import frechet_distance


def test_every_golden_pair(shared: Callable[[str], Path]) -> None:
    """One batch of all pairs; the values of the images and their mean."""
    golden = json.loads(shared("golden/metrics/golden.json").read_text())["pairs"]
    assert len(golden) == 12

    def batch(kind: str) -> Tensor:
        paths = [shared(f"golden/metrics/{pair[kind]}") for pair in golden]
        found = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)

    ground_truth, generated = batch("ref"), batch("dist")
    network = LpipsNetwork(shared("golden/metrics/alexnet_features_seed0.safetensors"))
    unsigned = [pair["by_code"]["pcdms"]["lpips_unscaled_0_1"] for pair in golden]
    infinite = [math.inf if pair["psnr_is_inf"] else pair["psnr"] for pair in golden]
    for metric, expected, tolerance in (
        (SSIMW51(), [pair["ssim"] for pair in golden], 1e-9),
        (SSIM256(), [pair["ssim_256"] for pair in golden], 1e-9),
        (SSIM256(1.2), [pair["ssim_256_sigma1_2"] for pair in golden], 1e-9),
        (PSNR(), infinite, 1e-9),
        (L1(), [pair["l1"] for pair in golden], 1e-7),
        (MAE(), [pair["mae"] for pair in golden], 1e-6),
        (LPIPS(network), [pair["lpips_alex_seed0"] for pair in golden], 1e-7),
        (LPIPS(network, signed=False), unsigned, 1e-7),
    ):
        metric.update(generated, ground_truth)
        assert metric.per_image().tolist() == pytest.approx(expected, abs=tolerance), metric.name
        mean = np.mean([value for value in expected if math.isfinite(value)])
        assert float(metric.compute()) == pytest.approx(mean, abs=tolerance), metric.name


@pytest.mark.parametrize("metric", metrics(), ids=lambda metric: metric.name)
def test_update_compute_reset_and_forward(metric: Metric) -> None:
    generated, ground_truth = images(0), images(1)
    whole = metric.clone()
    whole.update(generated, ground_truth)
    for part in (slice(0, 1), slice(1, 6), slice(6, None)):
        metric.update(generated[part], ground_truth[part])
    assert float(metric.compute()) == pytest.approx(float(whole.compute()), rel=1e-6)
    metric.reset()
    own = metric(generated[:6], ground_truth[:6])  # of this batch alone
    metric(generated[6:], ground_truth[6:])
    alone = metric.clone()
    alone.reset()
    alone.update(generated[:6], ground_truth[:6])
    assert float(own) == pytest.approx(float(alone.compute()), rel=1e-6)
    assert float(metric.compute()) == pytest.approx(float(whole.compute()), rel=1e-6)
    metric.reset()


def test_two_ranks_compute_what_one_process_does(tmp_path: Path) -> None:
    """With parts of different sizes, and with a rank without images."""
    run_ranks(2, metric_ranks.main, tmp_path)
    expected = {}
    for metric in metrics():
        metric.update(images(0), images(1))
        expected[metric.name] = float(metric.compute())
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert set(found["split"]) == set(expected)
        for name, value in expected.items():
            assert found["split"][name] == pytest.approx(value, rel=1e-9), (rank, name)
            assert found["all on rank 0"][name] == pytest.approx(value, rel=1e-9), (rank, name)
            assert found["own again"][name] == (COUNT - 7 if rank == 1 else 7)


def test_a_metric_collection_does_not_merge_equal_states() -> None:
    """A MetricCollection merges metrics with equal states: here all are 0 at first."""
    generated, ground_truth = images(0), images(1)
    grouped = MetricCollection([L1(), MAE(), LPIPS(LpipsNetwork("toy")), SSIM256()])
    grouped.add_metrics({"narrow": SSIM256(1.2)})
    grouped.update(ground_truth, ground_truth)
    grouped.update(generated, ground_truth)
    found = grouped.compute()
    for name, metric in (("L1", L1()), ("MAE", MAE()), ("narrow", SSIM256(1.2))):
        metric.update(ground_truth, ground_truth)
        metric.update(generated, ground_truth)
        assert found[name] == metric.compute(), name


def test_protocol_metrics_resize_and_name_their_values() -> None:
    """Images of any size; values equal those of images resized one by one."""
    lpips, toy = LpipsNetwork("toy"), toy_features()
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (5, 9, 7, 3), dtype=np.uint8)
    photographs = [cv2.resize(c, (206, 300), interpolation=cv2.INTER_CUBIC) for c in coarse]
    made = [cv2.GaussianBlur(cv2.resize(p, (256, 256)), (0, 0), 2) for p in photographs]
    tensors = [torch.from_numpy(np.stack(one)).permute(0, 3, 1, 2) for one in (made, photographs)]
    for name in ("cfld", "pidm"):
        found = protocol_metrics(name, lpips=lpips, features=toy, kid=True)
        for part in (slice(0, 2), slice(2, 5)):
            found.update(*(images[part] for images in tensors))
        values = found.compute()
        assert set(values) == {
            "ssim_w51", "ssim_256", "psnr", "l1", "mae",
            "lpips_alex_v0_1_toy", "fid_toyconv", "kid_toyconv",
        }  # fmt: skip
        protocol = get_protocol(name)
        small = [protocol.generated(one) for one in made]
        ground_truths = [protocol.ground_truth(one) for one in photographs]
        ours, theirs = (FeatureDistribution.of(toy(part)) for part in (small, ground_truths))
        distance = frechet_distance(ours.mean, ours.cov, theirs.mean, theirs.cov)
        assert float(values["fid_toyconv"]) == pytest.approx(distance, rel=1e-4)
        perceptual = [lpips.distance(a, b) for a, b in zip(small, ground_truths, strict=True)]
        assert float(values["lpips_alex_v0_1_toy"]) == pytest.approx(np.mean(perceptual), rel=1e-6)
        batch = found(*tensors)
        assert float(batch["psnr"]) == pytest.approx(float(values["psnr"]), rel=1e-9)
        found.reset()
        assert all(len(metric.rows()) == 0 for metric in found.metrics)


def test_a_subclass_of_pair_metric_needs_one_method() -> None:
    class Brightness(PairMetric):
        name = "brightness"
        higher_is_better = False

        def measure(self, generated: np.ndarray, ground_truth: np.ndarray) -> float:
            return abs(float(generated.mean()) - float(ground_truth.mean()))

    found = protocol_metrics("native", only=["psnr"], extra=[Brightness])
    found.update(images(0), images(1))
    expected = (images(0).double().mean((1, 2, 3)) - images(1).double().mean((1, 2, 3))).abs()
    assert set(found.compute()) == {"psnr", "brightness"}
    assert float(found.compute()["brightness"]) == pytest.approx(float(expected.mean()))


def test_batches_other_than_uint8_of_one_size_are_refused() -> None:
    """Floats have no known scale."""
    good = images(0)
    for metric in (PSNR(), LPIPS(LpipsNetwork("toy")), FID(toy_features())):
        for bad in (good / 255, good[:, :1], good[0]):
            with pytest.raises(XmdptError, match="uint8 tensors"):
                metric.update(bad, good)
    with pytest.raises(XmdptError, match="64x64 and 60x64"):
        PSNR().update(good, good[:, :, :, :60])


def test_networks_stay_in_eval_mode_and_too_few_images_have_no_distance() -> None:
    lpips = LPIPS(LpipsNetwork("toy"))
    lpips.update(images(0), images(1))
    expected = lpips.per_image()
    lpips.train()  # as a training loop does with everything it holds
    lpips.reset()
    lpips.update(images(0), images(1))
    np.testing.assert_array_equal(lpips.per_image(), expected)
    for metric in (FID(toy_features()), KID(toy_features())):
        metric.update(images(0)[:1], images(1)[:1])
        assert math.isnan(metric.compute())


def test_names_are_loaded_without_torch() -> None:
    code = "import sys, xmdpt_cli.metrics as m; print('FID' in dir(m), 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "True False"
