"""Evaluations: rows, means and distances against the functions that compute them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from pair_values import pair_values as measure

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.images import ImageArray, load_image
from xmdpt_cli.metrics.collection import protocol_metrics
from xmdpt_cli.metrics.evaluate import ImagePair, Networks, evaluate, evaluate_pairs
from xmdpt_cli.metrics.features import inception_features, toy_features
from xmdpt_cli.metrics.fid import FeatureDistribution, frechet_distance
from xmdpt_cli.metrics.lpips_metric import LpipsNetwork
from xmdpt_cli.metrics.pixels import to_tensor
from xmdpt_cli.metrics.protocols import get_protocol
from xmdpt_cli.metrics.reference_set import ReferenceSet
from xmdpt_cli.report.evaluation_json import to_json
from xmdpt_cli.toy.measures import TOY_METRICS, torso_colour_error


def person(seed: int, size: tuple[int, int] = (64, 64)) -> ImageArray:
    """A block of colour somewhere on a plain background."""
    rng = np.random.default_rng(seed)
    image = np.full((*size, 3), 225, np.uint8)
    x = int(rng.integers(4, size[1] - 30))
    image[10:50, x : x + 24] = rng.integers(0, 160, 3)
    return image


def blurred(image: ImageArray, sigma: float) -> ImageArray:
    return cv2.GaussianBlur(image, (0, 0), sigma)


TOY = Networks(features={"torchvision": toy_features()})
KEYPOINTS = np.full((18, 2), np.nan)
KEYPOINTS[[2, 5, 11, 8]] = [(24, 12), (40, 12), (40, 48), (24, 48)]


def pairs(count: int = 6) -> Iterator[ImagePair]:
    for i in range(count):
        ground_truth = person(i)
        yield ImagePair(
            blurred(ground_truth, 3),
            ground_truth,
            person(i + 50),
            KEYPOINTS,
            f"p{i}",
            blurred(ground_truth, 0.7),
        )


def test_rows_are_means_of_the_metrics() -> None:
    report = evaluate_pairs(pairs(), protocol="native")
    assert list(report.rows) == ["generated", "copy-source", "vae-reconstruction"]
    assert report.counts == {"generated": 6, "copy-source": 6, "vae-reconstruction": 6}
    assert report.sizes == ["64x64"]
    for row, field in (
        ("generated", "generated"),
        ("copy-source", "source"),
        ("vae-reconstruction", "reconstruction"),
    ):
        found = [measure(getattr(p, field), p.ground_truth) for p in pairs()]
        for metric in ("ssim_w51", "ssim_256", "psnr", "l1"):
            expected = np.mean([f[metric] for f in found])
            assert report.rows[row][metric] == pytest.approx(expected, rel=1e-12), (row, metric)
        assert [image["rows"][row] for image in report.images] == found
    assert [image["name"] for image in report.images] == [f"p{i}" for i in range(6)]
    assert (report.toy, report.weights, report.notes) == ([], {}, [])


def test_calibration_rows_bracket_the_generated_row() -> None:
    real = [person(i) for i in range(100, 120)]
    report = evaluate_pairs(
        pairs(),
        protocol="native",
        networks=Networks(LpipsNetwork("toy"), {"torchvision": toy_features()}),
        reference=ReferenceSet(lambda: real),
        extra=TOY_METRICS,
    )
    rows = report.rows
    compared = ["generated", "copy-source", "mean-image", "vae-reconstruction"]
    assert list(rows) == [*compared, "ground-truth"]
    assert report.counts["reference-set"] == 20
    for metric in ("psnr", "ssim_w51", "ssim_256"):
        assert rows["vae-reconstruction"][metric] > rows["generated"][metric]
        assert rows["generated"][metric] > rows["copy-source"][metric]
    for metric in ("fid_toyconv", "lpips_alex_v0.1_toy"):
        assert rows["vae-reconstruction"][metric] < rows["generated"][metric]
    # real people in wrong poses: the set is right, the pairs are wrong
    assert rows["copy-source"]["fid_toyconv"] < rows["generated"]["fid_toyconv"]
    assert rows["mean-image"]["fid_toyconv"] == max(row["fid_toyconv"] for row in rows.values())
    errors = [torso_colour_error(p.generated, p.ground_truth, KEYPOINTS) for p in pairs()]
    assert rows["generated"]["torso_colour_error"] == pytest.approx(np.mean(errors))
    assert report.toy == [
        "fid_toyconv",
        "lpips_alex_v0.1_toy",
        "silhouette_iou",
        "torso_colour_error",
    ]
    assert set(report.weights) == {"fid_toyconv", "lpips_alex_v0.1_toy"}
    assert any("fid_toyconv of 6 images" in note for note in report.notes)


def test_fid_compares_each_row_with_the_reference_set() -> None:
    toy = toy_features()
    real = [person(i) for i in range(200, 220)]
    mean = np.rint(np.mean(real, axis=0)).astype(np.uint8)
    networks = Networks(features={"torchvision": toy})
    report = evaluate_pairs(
        pairs(), protocol="native", networks=networks, reference=ReferenceSet(lambda: real)
    )

    def statistics(images: list[ImageArray]) -> tuple[np.ndarray, np.ndarray]:
        features = toy(images).astype(np.float64)
        return features.mean(0), np.cov(features, rowvar=False)

    for row, images in (
        ("generated", [p.generated for p in pairs()]),
        ("mean-image", [mean] * 6),  # measured once for six
        ("ground-truth", [p.ground_truth for p in pairs()]),
    ):
        expected = frechet_distance(*statistics(images), *statistics(real))
        assert report.rows[row]["fid_toyconv"] == pytest.approx(expected, rel=1e-4), row


def test_published_samples_rank_as_the_paper_ranks_the_models(
    shared: Callable[[str], Path],
) -> None:
    """X-MDPT-S < B < L, by every protocol; and the intervals of the textbook."""
    folder = shared("deepfashion_sample/official")
    targets = sorted(folder.glob("*_target256.png"))
    assert len(targets) == 60

    reports = {}
    for size in "SBL":
        samples = [t.with_name(t.name.replace("target256", f"sample_{size}")) for t in targets]
        found = [
            ImagePair(*(np.asarray(load_image(path)) for path in pair))
            for pair in zip(samples, targets, strict=True)
        ]
        protocols = [get_protocol(name) for name in ("cfld", "pidm", "pcdms", "clean")]
        reports[size] = {report.protocol: report for report in evaluate(found, protocols)}
    for protocol in ("cfld", "pidm", "pcdms"):
        s, b, l = (reports[size][protocol].rows["generated"] for size in "SBL")  # noqa: E741
        for metric in ("ssim_w51", "ssim_256", "psnr"):
            assert s[metric] < b[metric] < l[metric], (protocol, metric)
        assert s["l1"] > b["l1"] > l["l1"]
    clean = [reports[size]["clean"].rows["generated"] for size in "SBL"]
    assert clean[0]["ssim"] < clean[1]["ssim"] < clean[2]["ssim"]
    large = reports["L"]["cfld"]
    values = np.array([image["rows"]["generated"]["ssim_256"] for image in large.images])
    low, high = large.intervals["generated"]["ssim_256"]
    assert low < values.mean() < high
    assert (high - low) / 2 == pytest.approx(1.96 * values.std(ddof=1) / np.sqrt(60), rel=0.15)


def test_several_protocols_in_one_pass_equal_single_passes() -> None:
    photographs = [person(i, (300, 206)) for i in range(4)]
    found = [(blurred(p, 2), p, None, None, str(i)) for i, p in enumerate(photographs)]
    protocols = [get_protocol(name) for name in ("pidm", "cfld", "clean")]
    reference = ReferenceSet(lambda: photographs)
    networks = Networks(LpipsNetwork("toy"), {"torchvision": toy_features()}, kid=True)
    together = evaluate(found, protocols, networks=networks, reference=reference)
    for protocol, report in zip(protocols, together, strict=True):
        [alone] = evaluate(found, [protocol], networks=networks, reference=reference)
        assert report == alone
        row = report.rows["generated"]
        # no TensorFlow network was given for clean
        assert ("fid_toyconv" in row) == ("kid_toyconv" in row) == (protocol.name != "clean")
        assert report.images[0]["joints"] is None
    pidm, cfld, _ = together
    wide = pidm.rows["generated"]["ssim_w51"]
    protocol = protocols[0]
    assert protocol.pixelwise is not None
    squares = [
        measure(protocol.pixelwise(made), protocol.pixelwise(ground_truth))["ssim_w51"]
        for made, ground_truth, *_ in found
    ]
    assert wide == pytest.approx(np.mean(squares))
    assert wide != pytest.approx(cfld.rows["generated"]["ssim_w51"], abs=1e-5)


def test_infinite_psnr_is_counted_and_left_out_of_the_mean() -> None:
    found = [*pairs(3), ImagePair(person(9), person(9), name="same")]
    report = evaluate_pairs(found, protocol="native")
    others = [measure(p.generated, p.ground_truth)["psnr"] for p in pairs(3)]
    assert report.rows["generated"]["psnr"] == pytest.approx(np.mean(others))
    assert report.infinite == {"generated": {"psnr": 1}}
    assert any(
        "of the generated images 1 equal their ground truths" in note for note in report.notes
    )


def test_protocol_resizes_every_image_and_the_keypoints() -> None:
    target, source = person(1, (220, 150)), person(2, (300, 200))
    generated = cv2.resize(blurred(target, 2), (256, 256))
    keypoints = KEYPOINTS * 2
    report = evaluate_pairs(
        [(generated, target, source, keypoints, "a")], protocol="cfld", extra=TOY_METRICS
    )
    cfld = get_protocol("cfld")
    small = cfld.ground_truth(target)
    expected = measure(cfld.generated(generated), small)
    error = torso_colour_error(cfld.generated(generated), small, keypoints * (176 / 150, 256 / 220))
    got = dict(report.rows["generated"])
    assert got.pop("torso_colour_error") == pytest.approx(error)
    del got["silhouette_iou"]
    assert got == expected
    assert report.sizes == ["176x256"]
    assert any("do not compare with published" in note for note in report.notes)

    photograph = person(1, (1101, 750))
    fine = evaluate_pairs([(generated, photograph)], protocol="cfld")
    assert fine.notes == []


def test_missing_joints_small_and_equal_images() -> None:
    nowhere = np.full((18, 2), np.nan)
    small = person(3, (40, 40))
    report = evaluate_pairs(
        [(small, small, None, nowhere, "x"), (small, small, None, None, "y")],
        protocol="native",
        extra=TOY_METRICS,
    )
    generated = report.rows["generated"]
    assert generated["torso_colour_error"] is None
    assert generated["ssim_w51"] is None
    assert report.undefined == {"generated": {"torso_colour_error": 2, "ssim_w51": 2}}
    data = to_json(report)
    assert data["rows"]["generated"]["psnr"] is None
    assert data["rows"]["generated"]["psnr_is_inf"] is True
    json.dumps(data, allow_nan=False)


def test_progress_has_the_total_of_sized_inputs() -> None:
    calls: list[tuple[str, int, int]] = []

    def listen(stage: str, done: int, total: int, /, **info: object) -> None:
        calls.append((stage, done, total))

    evaluate_pairs(
        list(pairs(2)),
        protocol="native",
        networks=TOY,
        reference=ReferenceSet(lambda: [person(1), person(2), person(3)]),
        progress=listen,
    )
    assert calls == [
        *[("reference set", i, 3) for i in (1, 2, 3)],
        *[("evaluate", i, 2) for i in (1, 2)],
    ]


def test_invalid_evaluations_are_refused() -> None:
    with pytest.raises(XmdptError, match="no pairs"):
        evaluate_pairs([], protocol="native")
    with pytest.raises(ConfigError, match="no such protocol: other"):
        evaluate_pairs(pairs(1), protocol="other")
    with pytest.raises(XmdptError, match="FID needs a reference set"):
        evaluate_pairs(pairs(1), protocol="native", networks=TOY)
    one = ReferenceSet(lambda: [person(1)])
    with pytest.raises(XmdptError, match="at least two"):
        evaluate_pairs(pairs(1), protocol="native", networks=TOY, reference=one)
    wrong = [(person(1, (64, 48)), person(1), None, None, "who")]
    with pytest.raises(
        XmdptError, match="who: the generated image is 48x64, the ground truth 64x64"
    ):
        evaluate_pairs(wrong, protocol="native")


def test_images_other_than_uint8_rgb_are_refused() -> None:
    """Floats have no known scale, and NaN would pass through resizes unnoticed."""
    good = person(1)
    unknown = (good / 255).astype(np.float32)
    unknown[3, 3] = np.nan
    for bad in (unknown, good[..., 0], good[..., :2], good.astype(np.int64)):
        for number, row in ((0, "generated"), (1, "ground-truth"), (2, "copy-source")):
            given = [good, good, good]
            given[number] = bad
            with pytest.raises(XmdptError, match=f"who: the {row} image is {bad.dtype}"):
                evaluate_pairs([(*given, None, "who")], protocol="cfld")
        reference = ReferenceSet(lambda bad=bad: [good, bad])
        with pytest.raises(XmdptError, match="image 1 of the reference set"):
            evaluate_pairs(pairs(2), protocol="cfld", reference=reference)


def test_fid_of_inception_equals_the_formula() -> None:
    """From torchvision's network with seeded weights to the number, by the formula's own terms:
    tr sqrt(C1 C2) is the sum of the singular values of A B^T / sqrt((n - 1) (m - 1)) for centred
    features A (n, D) and B (m, D)."""
    toy_inception = inception_features("toy")
    real, made = [person(k) for k in range(20, 26)], [person(k) for k in range(4)]
    cfld = get_protocol("cfld")
    reference = toy_inception([cfld.ground_truth(p) for p in real])
    metrics = protocol_metrics(
        cfld, features=toy_inception, reference=FeatureDistribution.of(reference), only=["fid"]
    )
    metrics.update(to_tensor(made), to_tensor(made))
    a = toy_inception([cfld.generated(p) for p in made]).astype(np.float64)
    b = reference.astype(np.float64)
    shift = a.mean(0) - b.mean(0)
    a, b = (a - a.mean(0)) / np.sqrt(len(a) - 1), (b - b.mean(0)) / np.sqrt(len(b) - 1)
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    expected = shift @ shift + (a**2).sum() + (b**2).sum() - 2 * root
    assert float(metrics.compute()["fid_tvinception_toy"]) == pytest.approx(expected, rel=1e-9)
