"""ICC profiles made by hand, which no file of ours holds and Pillow cannot make."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
D65 = (0.3127, 0.3290)  # white point, xy
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))  # primaries, xy
P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
_D50 = np.array([0.9642, 1.0, 0.8249])  # white of the profile connection space
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def srgb_decode(x: Floats) -> Floats:
    """IEC 61966-2-1: encoded in [0, 1] -> linear."""
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def srgb_encode(x: Floats) -> Floats:
    return np.where(x <= 0.0031308, x * 12.92, 1.055 * np.maximum(x, 1e-9) ** (1 / 2.4) - 0.055)


def to_xyz(primaries: tuple[tuple[float, float], ...]) -> Floats:
    """(3, 3): linear RGB with a D65 white -> XYZ."""
    columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in primaries]).T
    x, y = D65
    return columns * np.linalg.solve(columns, [x / y, 1.0, (1 - x - y) / y])


def expected_srgb(
    pixels: NDArray[np.uint8],
    primaries: tuple[tuple[float, float], ...],
    gamma: float | None = None,
) -> Floats:
    """RGB of other primaries -> sRGB, 0 to 255: without any colour management library."""
    x = pixels / 255.0
    linear = srgb_decode(x) if gamma is None else x**gamma
    moved = linear @ (np.linalg.inv(to_xyz(SRGB)) @ to_xyz(primaries)).T
    return 255 * srgb_encode(np.clip(moved, 0, 1))


def matrix_profile(primaries: tuple[tuple[float, float], ...], gamma: float | None = None) -> bytes:
    """An RGB display profile of these primaries; its curve is sRGB's, or a power."""
    matrix = to_xyz(primaries)
    white = matrix.sum(axis=1)
    scale = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    adapted = np.linalg.inv(_BRADFORD) @ np.diag(scale) @ _BRADFORD @ matrix
    tags = {b"wtpt": _xyz(_D50)}
    for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), adapted.T, strict=True):
        tags[name] = _xyz(column)
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(gamma))
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def gray_profile(gamma: float) -> bytes:
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": _xyz(_D50), b"kTRC": _curve(gamma)})


def cmyk_profile(cyan_lightness: float) -> bytes:
    """Paper white is white, full cyan a grey of this lightness (0 to 100), all else black."""
    table = np.zeros((2, 2, 2, 2, 3), np.uint8)
    table[..., 1:] = 128  # a and b
    table[0, 0, 0, 0, 0], table[1, 0, 0, 0, 0] = 255, round(cyan_lightness * 2.55)
    straight = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * int(i % 4 == 0) for i in range(9)))
    lut = (
        b"mft1"
        + bytes(4)
        + bytes([4, 3, 2, 0])
        + matrix
        + straight * 4
        + table.tobytes()
        + straight * 3
    )
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"wtpt": _xyz(_D50), b"A2B0": lut})


def _xyz(values: Floats) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(v * 65536) for v in values))


def _curve(gamma: float | None) -> bytes:
    x = np.arange(1024) / 1023
    y = srgb_decode(x) if gamma is None else x**gamma
    return b"curv" + bytes(4) + struct.pack(">I", 1024) + np.rint(y * 65535).astype(">u2").tobytes()


def _profile(kind: bytes, space: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    name = b"made by a test\0"
    text = b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(8) + bytes(70)
    tags = {b"desc": text, b"cprt": b"text" + bytes(4) + b"none\0", **tags}
    table, data = struct.pack(">I", len(tags)), b""
    begin = 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        data += bytes(-len(data) % 4)
        table += tag + struct.pack(">II", begin + len(data), len(content))
        data += content
    data += bytes(-len(data) % 4)
    header = struct.pack(">I", begin + len(data)) + bytes(4) + b"\x02\x20\0\0" + kind + space + pcs
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += struct.pack(">3i", *(round(v * 65536) for v in _D50))
    return header.ljust(128, b"\0") + table + data
