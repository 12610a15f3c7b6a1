"""Pose images with hands; and noise in the colours of poses, refused in bounded work."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import ImageArray, decode_image, load_image
from xmdpt_cli.pose import joint_search as pose_search
from xmdpt_cli.pose.drawing import PALETTE, Manner, Window, render_pose
from xmdpt_cli.pose.from_pose_image import pose_image_keypoints
from xmdpt_cli.pose.keypoints import JOINTS

# Arms away from the body: the hands cover the wrists alone.
POSE = np.array([
    (0.52, 0.13), (0.51, 0.23), (0.42, 0.24), (0.30, 0.33), (0.20, 0.42), (0.60, 0.23),
    (0.72, 0.32), (0.82, 0.40), (0.46, 0.49), (0.42, 0.68), (0.40, 0.87), (0.56, 0.49),
    (0.61, 0.67), (0.60, 0.90), (0.49, 0.11), (0.55, 0.11), (0.45, 0.12), (0.59, 0.12),
])  # fmt: skip
WRISTS = ((4, 3), (7, 6))


def with_hands(points: ImageArray, width: int, height: int, share: float) -> ImageArray:
    """As OpenPose's tools render it: 21 discs of one colour a hand, thin lines between them."""
    places = points * (width, height)
    image = render_pose(places, Window(0, 0, width, height), Manner.OPAQUE)[:, :, ::-1].copy()
    for wrist, elbow in WRISTS:
        if not np.isfinite(places[[wrist, elbow]]).all():
            continue
        away = np.arctan2(*(places[wrist] - places[elbow])[::-1])
        dots = [places[wrist]]
        for finger in range(5):
            way = np.array((np.cos(away + 0.35 * (finger - 2)), np.sin(away + 0.35 * (finger - 2))))
            dots += [places[wrist] + way * share * height * k / 4 for k in range(1, 5)]
        for i, dot in enumerate(dots[1:]):
            hue = np.uint8([[[round(180 * i / 20) % 180, 255, 255]]])
            colour = cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0].tolist()
            start = dots[0] if i % 4 == 0 else dots[i]
            cv2.line(image, start.astype(int).tolist(), dot.astype(int).tolist(), colour, 2)
        for dot in dots:
            cv2.circle(image, dot.astype(int).tolist(), 4, (0, 0, 255), -1)
    return image


@pytest.mark.parametrize("share", [0.04, 0.07, 0.1])
@pytest.mark.parametrize("seen", ["whole", "no legs"])
def test_joints_of_a_pose_image_with_hands(share: float, seen: str) -> None:
    points = POSE.copy()
    if seen == "no legs":
        points[[9, 10, 12, 13]] = np.nan
    found = pose_image_keypoints(with_hands(points, 256, 384, share))
    assert found is not None
    np.testing.assert_array_equal(np.isnan(found), np.isnan(points))
    off = np.hypot(*(found - points * (256, 384)).T) * 256 / 384
    for joint, distance in enumerate(off):
        hidden = joint in [wrist for wrist, _ in WRISTS]
        assert not distance > (6 if hidden else 2.5), JOINTS[joint]


@pytest.mark.parametrize("block", [1, 2, 8])
def test_noise_in_a_poses_colours_is_refused_in_bounded_work(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = 0
    render = pose_search.render_pose

    def counted(points: ImageArray, window: Window, manner: Manner) -> ImageArray:
        nonlocal pixels
        pixels += (window.right - window.left) * (window.bottom - window.top)
        return render(points, window, manner)

    monkeypatch.setattr(pose_search, "render_pose", counted)
    rng = np.random.default_rng(0)
    for share in (0.02, 0.3):
        small = np.zeros((64 // block, 64 // block, 3), np.uint8)
        rendered = rng.random(small.shape[:2]) < share
        small[rendered] = PALETTE[rng.integers(0, 18, int(rendered.sum()))]
        noise = np.ascontiguousarray(small.repeat(block, 0).repeat(block, 1))
        message = refusal(noise)
        assert block == 8 or "pose image" in message
        assert block == 8 or "keypoints as JSON" in message
    assert pixels < 2 * 400_000_000


def refusal(image: ImageArray) -> str:
    try:
        pose_image_keypoints(image)
    except XmdptError as err:
        return err.message + err.hint
    return ""


def header_only(width: int, height: int, depth: int, kind: int) -> bytes:
    """A PNG file of a huge image, small because nothing of it is there."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    sides = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", sides) + chunk(b"IDAT", zlib.compress(b"\0" * 9))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("side", "depth", "kind", "most"), [(13_000, 16, 0, 45), (13_000, 8, 2, 134), (9_000, 8, 6, 67)]
)
def test_an_image_that_takes_too_much_memory_is_refused_by_its_header(
    tmp_path: Path, side: int, depth: int, kind: int, most: int
) -> None:
    data = header_only(side, side, depth, kind)
    (tmp_path / "huge.png").write_bytes(data)
    for read in (
        lambda: load_image(tmp_path / "huge.png"),
        lambda: decode_image(data, "huge.png"),
    ):
        with pytest.raises(XmdptError, match=rf"huge\.png is {side} x {side} pixels") as err:
            read()
        assert f"at most {most} are decoded" in err.value.message
        assert "reduce it" in err.value.hint
    small = io.BytesIO(header_only(90, 90, depth, kind))
    with pytest.raises(XmdptError, match="broken"):
        decode_image(small.getvalue(), "cut.png")
