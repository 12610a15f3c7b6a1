"""The pose maps of a dataset's views, drawn once and kept compressed.

Token models need two maps a pair. Reading the keypoints and drawing a map takes about 0.4 ms (256
px, one core), decompressing it 0.15 ms. Keeping a map for the first time costs another 0.15 ms.
"""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from xmdpt_cli.images import ImageArray
from xmdpt_cli.pose.drawing import draw_pose_map
from xmdpt_cli.pose.keypoints import Keypoints

LIMIT = 256 * 2**20  # bytes; 2.7 KB a map at 256 px, so that all 52,712 views of DeepFashion fit


class _Packed(NamedTuple):
    """What is not black of a map: the bounding box of the pose, and its pixels compressed."""

    x: int
    y: int
    width: int
    height: int
    pixels: bytes


class PoseMaps:
    """Square pose maps of ``size`` pixels; safe to use from several threads."""

    def __init__(self, size: int, limit: int = LIMIT) -> None:
        self.size, self.limit, self.nbytes = size, limit, 0
        self._packed: OrderedDict[int, _Packed] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()

    def get(self, row: int, keypoints: Callable[[], Keypoints]) -> ImageArray:
        """The map (``draw_pose_map``) of the view of this row, uint8 (size, size, 3).

        ``keypoints`` is called if it is not kept.
        """
        with self._lock:
            packed = self._packed.get(row)
            if packed is not None:
                self._packed.move_to_end(row)
        if packed is not None:
            return self._unpack(packed)
        image = draw_pose_map(keypoints(), self.size)
        packed = _pack(image)
        with self._lock:
            if row not in self._packed:
                self._packed[row] = packed
                self.nbytes += len(packed.pixels)
            while self.nbytes > self.limit:
                self.nbytes -= len(self._packed.popitem(last=False)[1].pixels)
        return image

    def _unpack(self, packed: _Packed) -> ImageArray:
        x, y, width, height, pixels = packed
        image = np.zeros((self.size, self.size, 3), np.uint8)
        part = np.frombuffer(zlib.decompress(pixels, bufsize=max(1, 3 * width * height)), np.uint8)
        image[y : y + height, x : x + width] = part.reshape(height, width, 3)
        return image


def _pack(image: ImageArray) -> _Packed:
    left, y, width, height = cv2.boundingRect(image.reshape(len(image), -1))  # of all channels
    x, end = left // 3, -(-(left + width) // 3)
    part = image[y : y + height, x:end]
    return _Packed(x, y, end - x, height, zlib.compress(part.tobytes(), 1))
