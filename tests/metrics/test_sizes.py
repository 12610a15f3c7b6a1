"""Notes on image sizes that a protocol does not expect."""

from __future__ import annotations

import numpy as np
import pytest

from xmdpt_cli.images import ImageArray
from xmdpt_cli.metrics.evaluate import evaluate
from xmdpt_cli.metrics.protocols import get_protocol
from xmdpt_cli.metrics.reference_set import ReferenceSet
from xmdpt_cli.metrics.sizes import size_notes
from xmdpt_cli.report.evaluation_json import to_json

PHOTOGRAPH, SQUARE, EXACT = (1101, 750), (256, 256), (256, 176)


def image(size: tuple[int, int], seed: int = 0) -> ImageArray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("protocol", "height", "prediction", "ground_truth"),
    [
        ("cfld", 256, SQUARE, PHOTOGRAPH),
        ("cfld", 256, EXACT, PHOTOGRAPH),
        ("cfld", 256, EXACT, EXACT),
        ("cfld", 256, (512, 512), PHOTOGRAPH),
        ("cfld", 512, (512, 352), PHOTOGRAPH),
        ("pidm", 256, SQUARE, SQUARE),
        ("pidm", 256, SQUARE, PHOTOGRAPH),
        ("pcdms", 256, SQUARE, SQUARE),
        ("pcdms", 512, (512, 512), (512, 512)),
        ("clean", 256, SQUARE, PHOTOGRAPH),
    ],
)
def test_expected_sizes_give_no_note(
    protocol: str, height: int, prediction: tuple[int, int], ground_truth: tuple[int, int]
) -> None:
    sizes = {"generated": {prediction: 3}, "ground-truth": {ground_truth: 3}}
    assert size_notes(get_protocol(protocol, height), sizes) == []


@pytest.mark.parametrize(
    ("protocol", "role", "size", "message"),
    [
        *((name, "generated", (64, 64), "enlarged") for name in ("cfld", "pidm", "pcdms", "clean")),
        *((name, "ground-truth", (300, 400), "squeezed") for name in ("cfld", "pidm", "pcdms")),
        ("cfld", "ground-truth", (256, 100), "enlarged"),
        ("cfld", "ground-truth", SQUARE, "starts from the photographs"),
        ("clean", "ground-truth", (512, 512), "starts from the photographs"),
        ("pidm", "generated", (512, 512), "starts from 256x256: they were first resized"),
        ("pcdms", "ground-truth", (1024, 1024), "starts from 256x256: they were first resized"),
        ("pidm", "generated", EXACT, "enlarged to it for SSIM, PSNR, L1 and MAE"),
        ("pcdms", "generated", EXACT, "starts from 256x256"),
    ],
)
def test_unexpected_sizes_are_noted_with_counts(
    protocol: str, role: str, size: tuple[int, int], message: str
) -> None:
    sizes = {"generated": {SQUARE: 4}, "ground-truth": {PHOTOGRAPH: 4}}
    sizes[role] = {**sizes[role], size: 2}
    if size in (SQUARE, PHOTOGRAPH):
        sizes[role] = {size: 6}
    [note] = size_notes(get_protocol(protocol), sizes)
    assert message in note
    assert "do not compare with published" in note
    assert f"{size[1]}x{size[0]}: " in note
    assert note.startswith("all 6" if len(sizes[role]) == 1 else "2 of 6")


def test_a_report_counts_the_input_sizes() -> None:
    """Images of 10x10 beside photographs are noted, in the reference set too."""
    sizes = [(1101, 750), (1101, 750), (10, 10)]
    found = [(image(SQUARE, k), image(size, k)) for k, size in enumerate(sizes)]
    reference = ReferenceSet(lambda: [image(size) for size in sizes])
    [cfld, clean] = evaluate(
        [*found, (image((10, 10)), image((10, 10)))],
        [get_protocol("cfld"), get_protocol("clean")],
        reference=reference,
        intervals=False,
    )
    assert cfld.input_sizes == clean.input_sizes
    assert to_json(cfld)["input_sizes"] == {
        "generated": {"10x10": 1, "256x256": 3},
        "ground-truth": {"10x10": 2, "750x1101": 2},
        "reference-set": {"10x10": 1, "750x1101": 2},
    }
    [note] = cfld.notes
    for part in (
        "1 of 4 generated images (10x10: 1)",
        "2 of 4 ground truths (10x10: 2)",
        "1 of 3 images of the reference set (10x10: 1)",
        "were enlarged",
    ):
        assert part in note


def test_native_notes_mixed_sizes() -> None:
    one = [(image((64, 64), k), image((64, 64), k + 9)) for k in range(2)]
    [report] = evaluate(one, [get_protocol("native")], intervals=False)
    assert report.notes == []
    [mixed] = evaluate(
        [*one, (image((70, 60), 1), image((70, 60)))], [get_protocol("native")], intervals=False
    )
    assert mixed.notes == [
        "generated images (64x64: 2, 60x70: 1), ground truths (64x64: 2, 60x70: 1) are of several "
        "sizes, and native measures them together as they are"
    ]
