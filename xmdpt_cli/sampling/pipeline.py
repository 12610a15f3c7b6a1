"""The pipeline: images of a person and poses -> images of the person in these poses.

pipe = XMDPTPipeline.from_pretrained("runs/S/model")
images = pipe(source="person.jpg", pose="pose.json")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.pose.formats.missing import MIN_SCORE
from xmdpt_cli.pose.framing import Fit
from xmdpt_cli.pose.keypoints import Keypoints, Size
from xmdpt_cli.pose.tracking import EmptyFrames
from xmdpt_cli.sampling import hub
from xmdpt_cli.sampling.batch_size import fit_memory
from xmdpt_cli.sampling.encoders import LazyEncoders
from xmdpt_cli.sampling.generation import Callback, describe_image, generate_images, pose_requests
from xmdpt_cli.sampling.inputs import (
    DEFAULT_OPTIONS,
    InputOptions,
    Pose,
    View,
    notes_of,
    read_pose,
    read_view,
)
from xmdpt_cli.sampling.png_writer import png_text
from xmdpt_cli.sampling.sampler import Sampler, SamplingConfig
from xmdpt_cli.sampling.student import solvers_of, student_summary
from xmdpt_cli.sampling.user_inputs import ImageLike, KeypointsLike, PoseLike
from xmdpt_cli.utils.devices import pick_device


class XMDPTPipeline:
    """Model, VAE, both DINOv2 and OpenPose; the encoders are loaded on first use."""

    def __init__(self, sampler: Sampler, encoders: LazyEncoders) -> None:
        self.sampler, self.encoders = sampler, encoders
        self.last_notes: list[str] = []  #: what was done to the inputs of the last call
        #: largest batch within ``max_memory``; None: the device's free memory decides
        self.max_batch: int | None = None

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
        max_memory: int | None = None,
        revision: str | None = None,
        **encoders: str | Path | None,
    ) -> XMDPTPipeline:
        """Load from a model's or run's folder, or a hub id.

        ``device``: "cpu", "cuda", "cuda:1", "mps" (untested), or "auto": a
        CUDA GPU if there is one. ``precision``: "fp32", "bf16", or "auto":
        bf16 on CUDA. ``max_memory``: limit in bytes while sampling, on a CPU
        of the whole process. ``encoders``: ``vae`` (of a tiny decoder, too;
        "tiny": the model's), ``dino_source``, ``dino_pose``, ``openpose`` or
        ``encoders`` as a folder or hub id; by default the model's folder, its
        dataset's, or the training's hub id. XmdptError names what is missing.
        """
        device = pick_device(device)
        sampler = Sampler.load(hub.fetch(source, revision), device, precision)
        lazy = LazyEncoders(
            sampler.metadata, sampler.folder, device=device, decode_dtype=sampler.dtype, **encoders
        )
        pipe = cls(sampler, lazy)
        if max_memory is not None:
            pipe.encoders.find()  # else only a missing VAE would be named
            vae = pipe.encoders.vae
            pipe.max_batch = fit_memory(sampler, vae, max_memory, pipe.resolution)
            pipe.encoders.decoder.chunk_pixels = vae.chunk_pixels
        return pipe

    def __repr__(self) -> str:
        model, kind = self.sampler.model, str(self.sampler.dtype).removeprefix("torch.")
        count = sum(p.numel() for p in model.parameters())
        distilled = self.sampler.metadata.get("distilled")
        student = f", distilled={student_summary(distilled)!r}" if distilled else ""
        return (
            f"{type(self).__name__}(size={model.size!r}, parameters={count:,}, "
            f"resolution={self.resolution}, device={str(self.sampler.device)!r}, "
            f"precision={kind!r}, toy={self.toy}{student})"
        )

    def to(self, device: str | torch.device) -> XMDPTPipeline:
        """Move model and encoders to ``device``; drops ``max_memory``."""
        where = pick_device(device)
        self.sampler.model.to(where)
        self.encoders.to(where)
        self.max_batch = None
        return self

    @property
    def resolution(self) -> int:
        """Side S of the model's images in pixels."""
        return int(self.sampler.metadata["resolution"])

    @property
    def toy(self) -> bool:
        """Whether the images say nothing about real results."""
        return bool(self.sampler.metadata["toy"])

    @property
    def solvers(self) -> tuple[str, ...]:
        """The names that ``solver`` accepts."""
        return solvers_of(self.sampler.metadata.get("distilled"))

    def sampling_config(self, **given: Any) -> SamplingConfig:
        """The model's defaults, overridden by the given fields."""
        return self.sampler.sampling_config(**given)

    def find_pose(self, image: ImageLike) -> Keypoints:
        """The largest person's joints (18, 2), fractions; XmdptError if none."""
        (pose,) = read_pose(image, self.resolution, self.encoders.find_openpose)
        return pose.keypoints / self.resolution

    def __call__(
        self,
        source: ImageLike | Sequence[ImageLike],
        pose: PoseLike | Sequence[PoseLike],
        *,
        steps: int | None = None,
        guidance: float | None = None,
        power: float | None = None,
        solver: str | None = None,
        cache: int | None = None,
        seed: int = 0,
        generator: torch.Generator | None = None,
        num_images: int = 1,
        source_keypoints: KeypointsLike | Sequence[KeypointsLike | None] | None = None,
        fit: Fit = "auto",
        pose_fit: Fit = "auto",
        person: int | None = None,
        pose_person: int | None = None,
        square: bool = False,
        callback: Callback | None = None,
        pose_size: tuple[int, int] | None = None,
        min_score: float = MIN_SCORE,
        empty_frames: EmptyFrames = "skip",
    ) -> list[Image.Image]:
        """Generate ``num_images`` images of the person of ``source`` in each pose.

        ``source``: file, PIL image or uint8 array (H, W, 3); several are
        views of one person. ``pose``: keypoint files, photographs, pose
        images, or arrays (18, 2) of x, y as fractions of the image, NaN where
        missing. ``source_keypoints``: files or such arrays; None: a file
        beside the source, or OpenPose. ``fit`` to ``pose_person`` and
        ``pose_size`` to ``empty_frames``: see ``InputOptions``. ``steps`` to
        ``solver``: None is the model's; the paper's: 50, 2.0, 0.01, "ddim".
        ``cache``: as in ``SamplingConfig``, for example 2.
        Returns RGB images in pose order, ``resolution`` high and 176/256 as
        wide; ``square`` keeps the model's shape. An image depends only on its
        inputs and ``seed`` (or ``generator``, which is read in order), up to
        the rounding of other batch sizes; ``image.info`` has its settings.
        Raises XmdptError or ConfigError for inputs that a user can correct.
        """
        options = InputOptions(
            fit, pose_fit, person, pose_person, pose_size, min_score, empty_frames
        )
        with self.encoders.naming_all_missing():
            views = read_views(self, source, source_keypoints, options)
            poses = read_poses(self, pose, options, views[0].size)
        self.last_notes = notes_of(views, poses)
        config = self.sampling_config(
            steps=steps, guidance=guidance, power=power, solver=solver, cache=cache, seed=seed
        )
        requests = pose_requests(views, poses, num_images, seed)
        if generator is not None:
            shape, where = self.sampler.model.latent_shape, generator.device
            requests = [
                replace(request, noise=torch.randn(shape, generator=generator, device=where))
                for request in requests
            ]
        images = []
        for index, generated in generate_images(
            self, requests, config, callback=callback, square=square
        ):
            image = Image.fromarray(generated)
            image.info.update(png_text(describe_image(self, requests[index], config, square)))
            images.append(image)
        return images

    def save_pretrained(self, folder: str | Path, include: Sequence[str] | None = None) -> None:
        """Write a folder that ``from_pretrained`` loads on any machine.

        ``include``: "vae", "source", "pose"; None: what the hub does not have.
        """
        hub.save(Path(folder), self.sampler, self.encoders, include)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        metrics: str | Path | None = None,
        private: bool = False,
        token: str | None = None,
    ) -> str:
        """Publish as ``repo_id``, with a model card; returns its URL.

        ``metrics``: a metrics.json of ``xmdpt evaluate``, for the card.
        """
        return hub.push(
            repo_id, self.sampler, self.encoders, metrics=metrics, private=private, token=token
        )


def read_views(
    pipe: XMDPTPipeline,
    source: ImageLike | Sequence[ImageLike],
    keypoints: KeypointsLike | Sequence[KeypointsLike | None] | None = None,
    options: InputOptions = DEFAULT_OPTIONS,
) -> list[View]:
    """Read the views of one person, framed to the model's resolution (``inputs.read_view``)."""
    sources = _listed(source)
    if not sources:
        raise ConfigError("no source is given", "give an image of a person")
    points = [None] * len(sources) if keypoints is None else _listed(keypoints)
    if len(points) != len(sources):
        raise ConfigError(
            f"{len(points)} source keypoints for {len(sources)} sources",
            "give one for each source, in their order",
        )
    needed = pipe.sampler.model.conditioning == "tokens"
    openpose = pipe.encoders.find_openpose
    return [
        read_view(
            image, pipe.resolution, openpose, options, keypoints=given, needs_keypoints=needed
        )
        for image, given in zip(sources, points, strict=True)
    ]


def read_poses(
    pipe: XMDPTPipeline,
    pose: PoseLike | Sequence[PoseLike],
    options: InputOptions = DEFAULT_OPTIONS,
    source_size: Size | None = None,
) -> list[Pose]:
    """Read poses, at least one (``inputs.read_pose``). ``source_size``: (height, width)."""
    poses = _listed(pose)
    if not poses:
        raise ConfigError("no pose is given", "give keypoints, or an image of a pose")
    openpose = pipe.encoders.find_openpose
    return [
        found
        for given in poses
        for found in read_pose(given, pipe.resolution, openpose, options, source_size=source_size)
    ]


def _listed(given: Any) -> list[Any]:
    """A list or tuple as a list, a single input as a list of one."""
    return list(given) if isinstance(given, (list, tuple)) else [given]
