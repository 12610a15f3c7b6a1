"""OpenPose's body network (controlnet-aux): an image of a person -> 18 keypoints.

Only its keypoints are used: controlnet-aux renders joints, limbs and colours in another order than
the published pose images.
"""

from __future__ import annotations

import math
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from xmdpt_cli.encoders.openpose_batch import detect_batch
from xmdpt_cli.encoders.weights import Origin, fetch, is_hub_id
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import expanded
from xmdpt_cli.images import ImageArray
from xmdpt_cli.utils.weights_files import UnreadableError, check_archive, check_whole, unreadable

DEFAULT_OPENPOSE = "lllyasviel/Annotators"
BODY_FILE = "body_pose_model.pth"
JOINTS = 18
_AGAIN = "fetch or copy it again"

# Taller images are reduced before detection: the network reads 184 rows in any case, and
# controlnet-aux enlarges 57 maps to the size of the image to find joints in them.
DETECT_HEIGHT = 512
FARTHEST_RATIO = 10  # of width to height, or height to width


class OpenPose:
    """The body network, without those of hands and faces.

    Always float32, since its thresholds are compared with sums of small numbers (on a GPU PyTorch
    uses TF32 for convolutions by default). Calls do not change the object: threads may share it.
    """

    def __init__(self, detector: Any, origin: Origin | None = None, threads: int = 1) -> None:
        self._detector, self.threads = detector, threads
        self._origin = origin or Origin("given", type(detector).__name__)

    @classmethod
    def load(
        cls,
        source: str | Path = DEFAULT_OPENPOSE,
        *,
        device: str | torch.device = "cpu",
        threads: int = 1,
    ) -> OpenPose:
        """Load from a hub id, a folder with ``body_pose_model.pth``, or that file itself.

        ``threads``: of ``keypoints_batch``, before and after the network. Raises XmdptError with
        what to fetch and where to put it.
        """
        origin = find_body(source)
        path = origin.files[0]
        check_whole(path, f"hf download {DEFAULT_OPENPOSE} {BODY_FILE} --local-dir DIR")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the import warns about networks that are not used
            from controlnet_aux.open_pose import OpenposeDetector
            from controlnet_aux.open_pose.body import Body

            try:
                check_archive(path, _AGAIN)  # Body compares no checksums
                detector = OpenposeDetector(Body(str(path)))
            except UnreadableError as err:
                raise _not_body(path, err.reason) from None
            except Exception as err:  # of torch.load, or of tensors of another network
                raise _not_body(path, unreadable(path, err, _AGAIN).reason) from None
        found = cls(detector, origin, threads)
        found.to(device)
        return found

    def to(self, device: str | torch.device) -> None:
        """Move the network to ``device``."""
        self._detector.body_estimation.to(device)

    def describe(self) -> dict[str, Any]:
        """JSON-ready identity of the estimator: ``Origin.describe``, ``joints`` (18) and
        ``detect_height``."""
        network = self._detector.body_estimation.model
        return self._origin.describe(network, joints=JOINTS, detect_height=DETECT_HEIGHT)

    def keypoints(self, image: ImageArray) -> NDArray[np.float64] | None:
        """uint8 (H, W, 3) -> (18, 2) x, y in its pixels, NaN where not found; None if no person is.

        Of several people the one with the highest total score.
        """
        if not _can_show_a_person(image):
            return None
        reduced = _reduce(image)
        return _best(self._detector.detect_poses(reduced), reduced, image)

    def people(self, image: ImageArray) -> list[NDArray[np.float64]]:
        """uint8 (H, W, 3) -> all people in it, (18, 2) each in its pixels, NaN where not found.

        Sorted by the area of the box around the found joints, the largest first, then by score.
        """
        if not _can_show_a_person(image):
            return []
        reduced = _reduce(image)
        found = [
            (_joints(person.body, reduced, image), float(person.body.total_score))
            for person in self._detector.detect_poses(reduced)
        ]
        found.sort(key=lambda person: (_extent(person[0]), person[1]), reverse=True)
        return [points for points, _ in found if np.isfinite(points).any()]

    def keypoints_batch(
        self, images: Sequence[ImageArray], *, threads: int | None = None
    ) -> list[NDArray[np.float64] | None]:
        """``keypoints`` of images of any sizes, in order.

        Images of one shape (after scaling to 184 rows) pass the network in one batch; the steps
        before and after it run per image, on ``threads`` threads [those of ``load``].
        """
        found: list[NDArray[np.float64] | None] = [None] * len(images)
        usable = [i for i, image in enumerate(images) if _can_show_a_person(image)]
        reduced = [_reduce(images[i]) for i in usable]
        people = detect_batch(self._detector, reduced, threads=threads or self.threads)
        for i, small, persons in zip(usable, reduced, people, strict=True):
            found[i] = _best(persons, small, images[i])
        return found


def _not_body(path: Path, why: str) -> XmdptError:
    return XmdptError(f"not OpenPose's body network: {path} ({why})", _AGAIN)


def _can_show_a_person(image: ImageArray) -> bool:
    """Whether the image's shape is usable: strips break controlnet-aux's scaling, or fill the
    memory."""
    height, width = image.shape[:2]
    return height > 0 and 1 / FARTHEST_RATIO <= width / height <= FARTHEST_RATIO


def _reduce(image: ImageArray) -> ImageArray:
    """At most ``DETECT_HEIGHT`` rows, in proportion."""
    height, width = image.shape[:2]
    if height <= DETECT_HEIGHT:
        return image
    size = (max(1, round(width * DETECT_HEIGHT / height)), DETECT_HEIGHT)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _best(
    people: Sequence[Any], reduced: ImageArray, image: ImageArray
) -> NDArray[np.float64] | None:
    """The joints of the person with the highest score; None for no people."""
    if not people:
        return None
    body = max((person.body for person in people), key=lambda body: body.total_score)
    return _joints(body, reduced, image)


def _joints(body: Any, reduced: ImageArray, image: ImageArray) -> NDArray[np.float64]:
    """A person's joints in pixels of ``image``, (18, 2), NaN where missing.

    ``body`` has them as fractions of ``reduced``, the image or a smaller copy of it.
    """
    size = np.array(image.shape[1::-1], dtype=np.float64)
    # a pixel of the copy covers several pixels of the image: the joint is at their middle
    middle = (size / reduced.shape[1::-1] - 1) / 2
    points = np.full((JOINTS, 2), math.nan)
    for joint, point in enumerate(body.keypoints):
        if point is not None:
            points[joint] = np.array((point.x, point.y)) * size + middle
    return points


def _extent(points: NDArray[np.float64]) -> float:
    """The area, in square pixels, of the box around the found joints."""
    seen = points[np.isfinite(points).all(axis=1)]
    return float(np.prod(seen.max(axis=0) - seen.min(axis=0))) if len(seen) else 0.0


def find_body(source: str | Path) -> Origin:
    """Locate the body network's file, downloading it if needed. XmdptError with what to fetch."""
    path = expanded(source)
    if path.is_file():
        return Origin("local", str(path), files=[path])
    if path.is_dir():
        if (path / BODY_FILE).is_file():
            return Origin("local", str(path), files=[path / BODY_FILE])
        raise XmdptError(f"no {BODY_FILE} in {path}", _hint(str(path)))
    hint = _hint("DIR")
    if not is_hub_id(source):
        raise XmdptError(f"no such OpenPose file or folder: {source}", hint)
    folder = fetch(str(source), [BODY_FILE], what=f"OpenPose {source}", hint=hint)
    return Origin("hub", str(source), revision=folder.name, files=[folder / BODY_FILE])


def _hint(folder: str) -> str:
    folder = shlex.quote(folder)
    return (
        f"with internet access: `hf download {DEFAULT_OPENPOSE} {BODY_FILE} --local-dir {folder}`; "
        f"then give `--openpose {folder}`"
    )
