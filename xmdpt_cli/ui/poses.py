"""Preset poses, made by hand for this page.

Fractions of the width and height of the upright 176 x 256 frame, (x, y) a joint, None where the
body hides it. Left and right are those of the person: a person who faces the camera has the right
shoulder on the left of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xmdpt_cli.pose.keypoints import JOINTS, Keypoints

Place = tuple[float, float]
LEFT = {name: name.replace("right_", "left_") for name in JOINTS if name.startswith("right_")}
SIDES = {**LEFT, **{left: right for right, left in LEFT.items()}}  # each joint of a pair -> other


@dataclass(frozen=True)
class Pose:
    """The places of the joints that the body does not hide."""

    name: str
    joints: dict[str, Place]

    def keypoints(self) -> Keypoints:
        """(18, 2) fractions of the frame, NaN missing."""
        nowhere = (np.nan, np.nan)
        return np.array([self.joints.get(name, nowhere) for name in JOINTS], dtype=np.float64)


_FACE: dict[str, Place] = {
    "nose": (0.5, 0.135),
    "right_eye": (0.47, 0.117), "left_eye": (0.53, 0.117),
    "right_ear": (0.428, 0.127), "left_ear": (0.572, 0.127),
}  # fmt: skip
_TRUNK: dict[str, Place] = {
    "neck": (0.5, 0.225),
    "right_shoulder": (0.375, 0.23), "left_shoulder": (0.625, 0.23),
    "right_hip": (0.425, 0.51), "left_hip": (0.575, 0.51),
}  # fmt: skip
_LEGS: dict[str, Place] = {
    "right_knee": (0.42, 0.715), "right_ankle": (0.42, 0.925),
    "left_knee": (0.58, 0.715), "left_ankle": (0.58, 0.925),
}  # fmt: skip
_ARMS: dict[str, Place] = {
    "right_elbow": (0.335, 0.375), "right_wrist": (0.325, 0.515),
    "left_elbow": (0.665, 0.375), "left_wrist": (0.675, 0.515),
}  # fmt: skip
_FRONT = {**_FACE, **_TRUNK, **_LEGS, **_ARMS}

PRESETS = (
    Pose("Front", _FRONT),
    Pose(
        "Back",
        {
            SIDES.get(name, name): place
            for name, place in _FRONT.items()
            if name not in ("nose", "right_eye", "left_eye")  # the back of the head hides them
        },
    ),
    Pose(
        "Side",
        {
            "nose": (0.588, 0.135), "neck": (0.485, 0.225),
            "right_eye": (0.563, 0.115), "right_ear": (0.487, 0.125),
            "right_shoulder": (0.47, 0.235), "right_elbow": (0.445, 0.375),
            "right_wrist": (0.5, 0.505),
            "left_shoulder": (0.51, 0.233), "left_elbow": (0.5, 0.37),
            "left_wrist": (0.56, 0.495),
            "right_hip": (0.475, 0.51), "right_knee": (0.485, 0.72), "right_ankle": (0.46, 0.925),
            "left_hip": (0.51, 0.51), "left_knee": (0.525, 0.715), "left_ankle": (0.515, 0.915),
        },
    ),
    Pose(
        "Turned",
        {
            **_LEGS,
            "nose": (0.555, 0.137), "neck": (0.5, 0.225),
            "right_eye": (0.52, 0.115), "left_eye": (0.572, 0.116), "right_ear": (0.452, 0.126),
            "right_shoulder": (0.405, 0.232), "right_elbow": (0.365, 0.378),
            "right_wrist": (0.385, 0.515),
            "left_shoulder": (0.59, 0.228), "left_elbow": (0.63, 0.37),
            "left_wrist": (0.655, 0.505),
            "right_hip": (0.44, 0.51), "left_hip": (0.555, 0.51),
            "right_knee": (0.43, 0.717), "right_ankle": (0.415, 0.93),
            "left_knee": (0.575, 0.712), "left_ankle": (0.59, 0.91),
        },
    ),
    Pose(
        "Walking",
        {
            **_FACE,
            **_TRUNK,
            "right_elbow": (0.315, 0.365), "right_wrist": (0.265, 0.485),
            "left_elbow": (0.67, 0.375), "left_wrist": (0.62, 0.495),
            "right_knee": (0.425, 0.70), "right_ankle": (0.46, 0.865),
            "left_knee": (0.58, 0.72), "left_ankle": (0.545, 0.945),
        },
    ),
    Pose(
        "Arms up",
        {
            **_FACE,
            **_TRUNK,
            **_LEGS,
            "neck": (0.5, 0.22),
            "right_shoulder": (0.38, 0.218), "left_shoulder": (0.62, 0.218),
            "right_elbow": (0.24, 0.155), "right_wrist": (0.27, 0.03),
            "left_elbow": (0.76, 0.155), "left_wrist": (0.73, 0.03),
        },
    ),
    Pose(
        "Hands on hips",
        {
            **_FRONT,
            "right_elbow": (0.245, 0.365), "right_wrist": (0.385, 0.465),
            "left_elbow": (0.755, 0.365), "left_wrist": (0.615, 0.465),
        },
    ),
    Pose(
        "Arms out",
        {
            **_FRONT,
            "right_elbow": (0.22, 0.245), "right_wrist": (0.065, 0.25),
            "left_elbow": (0.78, 0.245), "left_wrist": (0.935, 0.25),
        },
    ),
    Pose(
        "Sitting",
        {
            **{name: (x, y + 0.12) for name, (x, y) in {**_FACE, **_TRUNK}.items()},
            "right_elbow": (0.33, 0.485), "right_wrist": (0.40, 0.60),
            "left_elbow": (0.67, 0.485), "left_wrist": (0.60, 0.60),
            "right_knee": (0.36, 0.705), "right_ankle": (0.385, 0.915),
            "left_knee": (0.64, 0.705), "left_ankle": (0.615, 0.915),
        },
    ),
    Pose(
        "Waist up",
        {
            "nose": (0.5, 0.245),
            "right_eye": (0.45, 0.212), "left_eye": (0.55, 0.212),
            "right_ear": (0.38, 0.23), "left_ear": (0.62, 0.23),
            "neck": (0.5, 0.41),
            "right_shoulder": (0.285, 0.42), "left_shoulder": (0.715, 0.42),
            "right_elbow": (0.215, 0.67), "right_wrist": (0.235, 0.92),
            "left_elbow": (0.785, 0.67), "left_wrist": (0.765, 0.92),
            "right_hip": (0.37, 0.915), "left_hip": (0.63, 0.915),
        },
    ),
)  # fmt: skip
