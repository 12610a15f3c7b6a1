"""All inputs of a call: the views of one person, and poses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.pose.keypoints import Keypoints
from xmdpt_cli.sampling.inputs import (
    DEFAULT_OPTIONS,
    InputOptions,
    Pose,
    View,
    read_pose,
    read_view,
)
from xmdpt_cli.sampling.user_inputs import ImageLike, PoseLike

if TYPE_CHECKING:
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline

KeypointsLike: TypeAlias = "str | Path | Keypoints"


def read_views(
    pipe: XMDPTPipeline,
    source: ImageLike | Sequence[ImageLike],
    keypoints: KeypointsLike | Sequence[KeypointsLike | None] | None = None,
    options: InputOptions = DEFAULT_OPTIONS,
) -> list[View]:
    """The views of one person, framed to the model's resolution."""
    sources: list[Any] = list(source) if isinstance(source, (list, tuple)) else [source]
    if not sources:
        raise ConfigError("no source is given", "give an image of a person")
    points: list[Any] = list(keypoints) if isinstance(keypoints, (list, tuple)) else [keypoints]
    if keypoints is None:
        points = [None] * len(sources)
    if len(points) != len(sources):
        raise ConfigError(
            f"{len(points)} source keypoints for {len(sources)} sources",
            "give one for each source, in their order",
        )
    return [
        read_view(
            image,
            pipe.resolution,
            pipe.encoders.find_openpose,
            keypoints=known,
            fit=options.fit,
            person=options.person,
            needs_keypoints=pipe.sampler.model.conditioning == "tokens",
            min_score=options.min_score,
        )
        for image, known in zip(sources, points, strict=True)
    ]


def read_poses(
    pipe: XMDPTPipeline,
    pose: PoseLike | Sequence[PoseLike],
    options: InputOptions = DEFAULT_OPTIONS,
    source_size: tuple[int, int] | None = None,
) -> list[Pose]:
    """The poses, at least one; a file may hold a sequence. ``source_size``: (height, width) of
    the source image, for keypoints in pixels that do not state it (``inputs.read_pose``)."""
    given: list[Any] = list(pose) if isinstance(pose, (list, tuple)) else [pose]
    if not given:
        raise ConfigError("no pose is given", "give keypoints, or an image of a pose")
    return [
        found
        for one in given
        for found in read_pose(
            one,
            pipe.resolution,
            pipe.encoders.find_openpose,
            fit=options.pose_fit,
            person=options.pose_person,
            pose_size=options.pose_size,
            source_size=source_size,
            min_score=options.min_score,
            empty_frames=options.empty_frames,
        )
    ]
