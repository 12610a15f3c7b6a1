"""Checking what is inside shards: images, keypoints, tensors, pairs, and all of them together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_records import encoder_records
from stick_people import FIGURE

from xmdpt_cli.images import png_bytes
from xmdpt_cli.prepare.findings import KEPT, CheckReport
from xmdpt_cli.prepare.shard_writer import ShardWriter, ViewData
from xmdpt_cli.prepare.verify import check_dataset
from xmdpt_cli.storage.stores import LocalStore


def check(out: Path, **options: Any) -> CheckReport:
    return check_dataset(LocalStore(out), **options)


def found(report: CheckReport) -> set[tuple[str, str, str, str]]:
    return {(f.kind, f.shard, f.item, f.view) for f in report.findings}


def view(resolution: int = 16, **change: Any) -> ViewData:
    """A sound view of one tensor a type; ``change`` makes it another."""
    keypoints = np.full((18, 2), np.nan)
    keypoints[0] = (8.0, 4.0)
    whole = {
        "file": "MEN/a.jpg",
        "png": png_bytes(np.zeros((resolution, resolution, 3), np.uint8)),
        "keypoints": keypoints,
        "features": {
            "moments": torch.zeros(8, 2, 2, dtype=torch.float16),
            "pose_tokens": torch.zeros(3, 4, dtype=torch.bfloat16),
            "source_tokens": torch.zeros(3, 4).to(torch.float8_e4m3fn),
        },
    }
    return ViewData(**{**whole, **change})


def with_tensor(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**view().features, name: value}


Items = dict[str, tuple[dict[str, ViewData], list[tuple[str, str, int]]]]


def write(out: Path, shards: dict[str, Items], resolution: int = 16) -> Path:
    """A dataset whose shards hold these items, with a manifest that is that matches them."""
    out.mkdir()
    entries, counts = [], {}
    for split in ("train", "test"):
        counts[split] = {"items": 0, "images": 0, "pairs": 0}
    for name, items in shards.items():
        split = name.split("-")[0]
        with ShardWriter(LocalStore(out), name, split) as writer:
            for key, (views, pairs) in items.items():
                writer.add(key, views, pairs)
                counts[split]["items"] += 1
                counts[split]["images"] += len(views)
                counts[split]["pairs"] += len(pairs)
            index = writer.finish([])
        entries.append({
            "name": name, "split": split, "bytes": index.bytes, "sha256": index.sha256,
            "samples": len(items), "skipped": [],
        })  # fmt: skip
    begun: dict[str, Any] = {"format": "xmdpt-dataset", "version": 3, "resolution": resolution}
    begun["encoders"] = encoder_records()
    (out / "prepare.json").write_text(json.dumps(begun))
    manifest = {**begun, "toy": True, "counts": counts, "shards": entries, "skipped": []}
    (out / "dataset.json").write_text(json.dumps(manifest))
    return out


def pair_of(a: ViewData, b: ViewData, position: int = 0) -> Any:
    return {"1_front": a, "2_side": b}, [("1_front", "2_side", position)]


def test_a_written_dataset_has_no_findings(tmp_path: Path) -> None:
    shards = {"train-000000.tar": {"A-1": pair_of(view(), view())}}
    assert check(write(tmp_path / "out", shards)).findings == []


SHIFTED = {
    "mostly outside the image, in 6 of 6": lambda p: p + (1.1, 0),
    "of all joints lie outside": lambda p: p + (0.42, 0),
    "not where photographs have them": lambda p: p * 0.5,
    "6 of 6 people are upside down": lambda p: (0, 1) + p * (1, -1),
    "6 of 6 people lie": lambda p: p[..., ::-1],
    "": lambda p: p,
}


@pytest.mark.parametrize("text", SHIFTED)
@pytest.mark.parametrize("by_hand", [False, True])
def test_keypoints_that_do_not_match_the_images(tmp_path: Path, text: str, by_hand: bool) -> None:
    items: Items = {}
    for number in range(3):
        points = SHIFTED[text](FIGURE * (0.6, 0.85) + (0.2, 0.06)) * 16
        one = view(keypoints=points, file=f"MEN/Shorts/id_0000000{number}/01_1_front.jpg")
        items[f"MEN-Shorts-id_0000000{number}-01"] = pair_of(one, one, number)
    out = write(tmp_path / "out", {"train-000000.tar": items})
    if by_hand:
        begun = json.loads((out / "prepare.json").read_text())
        begun["options"] = {"frame": "352x512"}
        (out / "prepare.json").write_text(json.dumps(begun))
    findings = check(out).findings
    if not text or (by_hand and "outside" not in text):
        assert findings == []
        return
    (finding,) = findings
    assert (finding.kind, finding.harmless) == ("keypoints-implausible", False)
    assert text in finding.message
    assert "--frame" in finding.hint


def one_number(value: float, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Zeros, and one number that is ``value``."""
    tensor = torch.zeros(*shape)
    tensor.view(-1)[-1] = value
    return tensor.to(dtype)


NAN, INF = float("nan"), float("inf")
FAR, HALF, INFINITE = (np.full((18, 2), np.nan) for _ in range(3))
FAR[3], HALF[3, 0], INFINITE[3] = (8.0, 40.0), 8.0, np.inf

DAMAGES: list[tuple[str, str, dict[str, Any]]] = [
    ("image", "(8, 8, 3), not (16, 16, 3)", {"png": view(8).png}),
    ("image", "(16, 16, 1)", {"png": png_bytes(np.zeros((16, 16), np.uint8))}),
    ("image", "cannot be decoded", {"png": b"GIF89a"}),
    ("image", "cannot be decoded", {"png": view().png[:45]}),
    ("keypoints", "float64 (17, 2)", {"keypoints": np.zeros((17, 2))}),
    ("keypoints", "to 40 px in an image of 16 px", {"keypoints": FAR}),
    ("keypoints", "one NaN or infinite coordinate", {"keypoints": HALF}),
    ("keypoints", "one NaN or infinite coordinate", {"keypoints": INFINITE}),
]
TENSORS: list[tuple[str, str, str, torch.Tensor]] = [
    ("not-finite", "1 numbers of moments", "moments", one_number(INF, torch.float16, 8, 2, 2)),
    ("not-finite", "1 numbers of moments", "moments", one_number(NAN, torch.float32, 8, 2, 2)),
    ("not-finite", "1 numbers of pose", "pose_tokens", one_number(-INF, torch.bfloat16, 3, 4)),
    ("not-finite", "1 numbers of pose", "pose_tokens", one_number(NAN, torch.bfloat16, 3, 4)),
    ("not-finite", "1 numbers of source", "source_tokens",
     one_number(NAN, torch.float8_e4m3fn, 3, 4)),
    ("tensors-differ", "moments is F16 or F32 (4, 2, 2), F16 or F32 (8, 2, 2) in A-1/1_front",
     "moments", torch.zeros(4, 2, 2).half()),
    ("tensors-differ", "extra is U8 (1,), absent", "extra", torch.zeros(1, dtype=torch.uint8)),
    ("tensors-differ", "pose_tokens is F16", "pose_tokens", torch.zeros(3, 4).half()),
]  # fmt: skip
DAMAGES += [(kind, text, {"features": with_tensor(name, t)}) for kind, text, name, t in TENSORS]


@pytest.mark.parametrize(
    ("kind", "text", "change"),
    DAMAGES,
    ids=[f"{kind}: {text}" for kind, text, _ in DAMAGES],
)
def test_damaged_content_is_found(
    tmp_path: Path, kind: str, text: str, change: dict[str, Any]
) -> None:
    shards = {"train-000000.tar": {"A-1": pair_of(view(), view(**change))}}
    report = check(write(tmp_path / "out", shards))
    (finding,) = report.findings
    assert (finding.kind, finding.item, finding.view) == (kind, "A-1", "2_side")
    assert text in finding.message
    assert "into a new folder" in finding.hint


def test_moments_in_float32_or_float16_are_accepted(tmp_path: Path) -> None:
    wide = with_tensor("moments", torch.full((8, 2, 2), 1e6))
    shards = {"train-000000.tar": {"A-1": pair_of(view(), view(features=wide))}}
    assert check(write(tmp_path / "out", shards)).findings == []


@pytest.mark.parametrize("deep", [True, False])
def test_pairs_keys_and_positions(tmp_path: Path, deep: bool) -> None:
    both = {"1_front": view(), "2_side": view()}
    shards: dict[str, Items] = {
        "train-000000.tar": {
            "A-1": (both, [("1_front", "2_side", 0), ("1_front", "7_additional", 1)]),
            "A-2": (both, [("1_front", "2_side", 0), ("2_side", "2_side", 3)]),
            "A-3": (both, []),
        },
        "test-000000.tar": {"A-2": pair_of(view(), view(), 0)},
    }
    report = check(write(tmp_path / "out", shards), deep=deep)
    assert found(report) == {
        ("pairs", "train-000000.tar", "A-1", "7_additional"),
        ("position-twice", "train-000000.tar", "A-2", ""),
        ("pairs", "train-000000.tar", "A-2", "2_side"),
        ("pairs", "train-000000.tar", "A-3", ""),
        ("item-twice", "test-000000.tar", "A-2", ""),
    }
    assert not report.ok


def test_findings_of_one_kind_are_limited(tmp_path: Path) -> None:
    bad = view(png=b"no image")
    items = {f"A-{i}": pair_of(bad, bad, i) for i in range(KEPT)}
    report = check(write(tmp_path / "out", {"train-000000.tar": items}))
    assert len(report.findings) == KEPT
    assert report.not_listed == {("train-000000.tar", "image"): KEPT}
    assert f"{KEPT} more of the kind image" in report.lines()[-1]
