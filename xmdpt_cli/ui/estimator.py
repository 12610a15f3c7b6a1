"""Keypoints of the person in a source image, by the pipeline's estimator if it is available."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import decode_image
from xmdpt_cli.pose.keypoints import Keypoints, extent

if TYPE_CHECKING:
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline


class Estimator:
    """Remembers that the estimator is missing: another attempt may take a network timeout.

    ``needed``: whether the model requires the keypoints of the person.
    """

    def __init__(self, pipe: XMDPTPipeline) -> None:
        self._pipe = pipe
        self.needed = pipe.sampler.model.conditioning == "tokens"
        self.missing = False

    def find(self, path: Path) -> Keypoints | None:
        """Keypoints (18, 2) of the largest person, in fractions of the image's sides. None if no
        person is found or the estimator is missing."""
        if self.missing:
            return None
        try:
            openpose = self._pipe.encoders.openpose
        except XmdptError:
            self.missing = True
            return None
        image = decode_image(path, path.name)
        people = openpose.people(np.asarray(image))
        return max(people, key=extent) / image.size if people else None
