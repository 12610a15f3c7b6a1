"""Metadata of an image of a user's own person and pose: how it was generated.

The same for a PNG of ``xmdpt sample`` and for ``image.info`` of ``XMDPTPipeline``. It contains no
path and no name of the machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xmdpt_cli.sampling.inputs import Pose, View


def image_metadata(
    shared: Mapping[str, Any], views: Sequence[View], pose: Pose, number: int, square: bool
) -> dict[str, Any]:
    """``shared``: ``Sampler.described``; ``number``: of the image among those of one pose."""
    return {"image": number, "inputs": inputs_digest(views, pose), "square": square, **shared}


def inputs_digest(views: Sequence[View], pose: Pose) -> str:
    """sha256 of what the model sees of the source's views and the pose."""
    digest = hashlib.sha256(np.ascontiguousarray(pose.keypoints).tobytes())
    for view in views:
        digest.update(view.image.tobytes())
        if view.keypoints is not None:
            digest.update(np.ascontiguousarray(view.keypoints).tobytes())
    return digest.hexdigest()
