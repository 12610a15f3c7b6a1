"""Generates a person in a pose, from images and keypoints: model, encoders and VAE in one object.

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

from xmdpt_cli.diffusion import SOLVERS
from xmdpt_cli.pose.formats.missing import MIN_SCORE
from xmdpt_cli.pose.framing import Fit
from xmdpt_cli.pose.keypoints import Keypoints
from xmdpt_cli.pose.tracking import EmptyFrames
from xmdpt_cli.sampling import hub
from xmdpt_cli.sampling.batch_size import fit_memory
from xmdpt_cli.sampling.config import SamplingConfig
from xmdpt_cli.sampling.encoders import LazyEncoders
from xmdpt_cli.sampling.generation import (
    Callback,
    describe_image,
    generate_images,
    pose_requests,
)
from xmdpt_cli.sampling.inputs import InputOptions, notes_of, read_pose
from xmdpt_cli.sampling.png_writer import png_text
from xmdpt_cli.sampling.read_inputs import KeypointsLike, read_poses, read_views
from xmdpt_cli.sampling.sampler import Sampler
from xmdpt_cli.sampling.user_inputs import ImageLike, PoseLike
from xmdpt_cli.utils.devices import pick_device


class XMDPTPipeline:
    """Model, VAE, both DINOv2 and OpenPose; the encoders are loaded when first needed."""

    #: what ``solver`` may be
    solvers = SOLVERS

    def __init__(self, sampler: Sampler, encoders: LazyEncoders) -> None:
        self.sampler, self.encoders = sampler, encoders
        #: what was done to the inputs of the last call, one note each
        self.last_notes: list[str] = []
        #: largest batch within ``max_memory``; None: what the device has room for
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
        """From a model's or run's folder, or a hub id.

        ``device``: "cpu", "cuda", "cuda:1", "mps" (untested), or "auto": a
        CUDA GPU if there is one. ``precision``: "fp32", "bf16", or "auto":
        bf16 on CUDA. ``max_memory``: bytes while sampling, on a CPU of the
        whole process. ``encoders``: ``vae``, ``dino_source``, ``dino_pose``,
        ``openpose``, ``encoders``: a folder or hub id; None: in the model's
        folder, else its dataset's, else the hub id it was trained with.
        Raises XmdptError that names what is missing.
        """
        device = pick_device(device)
        sampler = Sampler.load(hub.fetch(source, revision), device, precision)
        lazy = LazyEncoders(
            sampler.metadata, sampler.folder, device=device, decode_dtype=sampler.dtype, **encoders
        )
        pipe = cls(sampler, lazy)
        if max_memory is not None:
            pipe.encoders.find()  # names everything that is missing, not the VAE alone
            pipe.max_batch = fit_memory(sampler, pipe.encoders.vae, max_memory, pipe.resolution)
        return pipe

    def __repr__(self) -> str:
        model, kind = self.sampler.model, str(self.sampler.dtype).removeprefix("torch.")
        count = sum(p.numel() for p in model.parameters())
        return (
            f"{type(self).__name__}(size={model.size!r}, parameters={count:,}, "
            f"resolution={self.resolution}, device={str(self.sampler.device)!r}, "
            f"precision={kind!r}, toy={self.toy})"
        )

    def to(self, device: str | torch.device) -> XMDPTPipeline:
        """Move model and encoders; the precision stays, ``max_memory`` ends."""
        where = pick_device(device)
        self.sampler.model.to(where)
        self.encoders.to(where)
        self.max_batch = None
        return self

    @property
    def resolution(self) -> int:
        """Side of the images in pixels."""
        return int(self.sampler.metadata["resolution"])

    @property
    def toy(self) -> bool:
        """Made to try things out: its images say nothing of real results."""
        return bool(self.sampler.metadata["toy"])

    def sampling_config(self, **given: Any) -> SamplingConfig:
        """The model's own defaults, overridden by what is given."""
        return self.sampler.sampling_config(**given)

    def find_pose(self, image: ImageLike) -> Keypoints:
        """(18, 2) fractions, of the largest person; XmdptError if there is none."""
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
        """Generate the person of ``source`` in every pose; ``num_images`` of each.

        Several sources are views of one person: files, PIL images or uint8
        arrays (H, W, 3). ``pose``: keypoint files, photographs or drawings
        of a pose, or arrays (18, 2) of x, y as fractions of the image, NaN
        where missing; so ``source_keypoints``, else a file beside the source
        or OpenPose. ``fit`` to ``pose_person`` and ``pose_size`` to
        ``empty_frames``: see ``InputOptions``. ``steps`` to ``solver``: None
        is the model's own; the paper's are 50, 2.0, 0.01, "ddim". Returns RGB
        images in pose order, ``resolution`` high and 176/256 as wide;
        ``square`` keeps the model's own shape. An image depends only on its
        inputs and ``seed`` (or ``generator``, read in order); ``image.info``
        has its settings. Raises XmdptError or ConfigError for what a user can
        correct.
        """
        options = InputOptions(
            fit, pose_fit, person, pose_person, pose_size, min_score, empty_frames
        )
        with self.encoders.naming_all_missing():
            views = read_views(self, source, source_keypoints, options)
            poses = read_poses(self, pose, options, views[0].size)
        self.last_notes = notes_of(views, poses)
        config = self.sampling_config(
            steps=steps, guidance=guidance, power=power, solver=solver, seed=seed
        )
        requests = pose_requests(views, poses, num_images, seed)
        if generator is not None:
            shape, place = self.sampler.model.latent_shape, generator.device
            requests = [
                replace(one, noise=torch.randn(shape, generator=generator, device=place))
                for one in requests
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
        """Write a folder that ``from_pretrained`` reads on any machine."""
        hub.save(Path(folder), self.sampler, self.encoders, include)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        metrics: str | Path | None = None,
        private: bool = False,
        token: str | None = None,
    ) -> str:
        """Publish as ``repo_id``; returns its address. ``metrics``: the JSON of evaluate."""
        return hub.push(
            repo_id, self.sampler, self.encoders, metrics=metrics, private=private, token=token
        )
