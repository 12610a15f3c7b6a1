"""A person and a pose in, that person in that pose out: the whole way as one object.

pipe = XMDPTPipeline.from_pretrained("runs/S/model")
images = pipe(source="person.jpg", pose="pose.json")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xmdpt_cli.diffusion import SOLVERS, Seen, start_noise
from xmdpt_cli.encoders.bundle import moments_of, pose_tokens_of, source_tokens_of
from xmdpt_cli.encoders.openpose import OpenPose
from xmdpt_cli.encoders.vae import posterior_mean
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.images import Picture, unsquash
from xmdpt_cli.pose.drawing import draw_pose, draw_pose_map
from xmdpt_cli.pose.formats.missing import MIN_SCORE
from xmdpt_cli.pose.framing import Fit
from xmdpt_cli.pose.keypoints import Keypoints
from xmdpt_cli.pose.tracking import EmptyFrames
from xmdpt_cli.sampling import hub
from xmdpt_cli.sampling.batch_size import batch_size, fit_memory, in_batches
from xmdpt_cli.sampling.conditioning import Conditions
from xmdpt_cli.sampling.config import SamplingConfig
from xmdpt_cli.sampling.encoders import LazyEncoders
from xmdpt_cli.sampling.inputs import Pose, View, read_pose, read_view
from xmdpt_cli.sampling.metadata import image_facts
from xmdpt_cli.sampling.png_writer import metadata
from xmdpt_cli.sampling.sampler import Sampler
from xmdpt_cli.sampling.user_inputs import ImageLike, NoOpenPoseError, PoseLike
from xmdpt_cli.utils.devices import pick_device

#: called after every step: (steps done, steps, a function that decodes what the network sees now)
Callback = Callable[[int, int, Callable[[], Image.Image]], None]
KeypointsLike: TypeAlias = "str | Path | Keypoints"


class XMDPTPipeline:
    """Model, VAE, both DINOv2 and OpenPose; networks are loaded when first needed."""

    #: what ``solver`` may be
    solvers = SOLVERS

    def __init__(self, sampler: Sampler, encoders: LazyEncoders) -> None:
        self.sampler, self.encoders = sampler, encoders
        #: what was done to the inputs of the last call, a clause each
        self.last_notes: list[str] = []
        #: pictures drawn together; None: what the device has room for
        self.most: int | None = None

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
        max_memory: int | None = None,
        revision: str | None = None,
        **networks: str | Path | None,
    ) -> XMDPTPipeline:
        """From a model's or run's folder, or a hub id.

        ``device``: "cpu", "cuda", "cuda:1", "mps" (untested), or "auto": a
        CUDA GPU if there is one. ``precision``: "fp32", "bf16", or "auto":
        bf16 on CUDA. ``max_memory``: bytes while sampling, on a CPU of the
        whole process. ``networks``: ``vae``, ``dino_source``, ``dino_pose``,
        ``openpose``, ``encoders``: a folder or hub id; None: in the model's
        folder, else its dataset's, else the hub id it was trained with.
        Raises XmdptError that names what is missing.
        """
        device = pick_device(device)
        sampler = Sampler.load(hub.fetch(source, revision), device, precision)
        own = LazyEncoders(
            sampler.metadata, sampler.folder, device=device, decode_dtype=sampler.dtype, **networks
        )
        pipe = cls(sampler, own)
        if max_memory is not None:
            pipe.encoders.find()  # all that is missing is named, not the VAE alone
            pipe.most = fit_memory(sampler, pipe.encoders.vae, max_memory, pipe.resolution)
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
        """Move model and networks; the precision stays, ``max_memory`` ends."""
        where = pick_device(device)
        self.sampler.model.to(where)
        self.encoders.to(where)
        self.most = None
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

    def find_pose(self, picture: ImageLike) -> Keypoints:
        """(18, 2) fractions, of the largest person; XmdptError if there is none."""
        (pose,) = read_pose(picture, self.resolution, self._openpose)
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
        or OpenPose. ``pose_size``: (width, height) of pose keypoints in
        pixels whose file does not state it; joints of a file with a score
        below ``min_score`` are not found; ``empty_frames``: "skip" or "hold"
        the frames of a sequence without the person. ``fit``: "squash", "pad",
        "person" or "auto" (``data/framing.py``); ``person``: which of several
        in the source, 1 the largest. ``steps`` to ``solver``: None is the
        model's own; the paper's are 50, 2.0, 0.01, "ddim". Returns RGB images
        in pose order, ``resolution`` high and 176/256 as wide; ``square``
        keeps the model's own shape. An image depends on its inputs and ``seed``
        (or ``generator``, read in order) alone; ``image.info`` has its config.
        Raises XmdptError or ConfigError for what a user can correct.
        """
        with self._networks_named():
            views = self._read_views(source, source_keypoints, fit, person, min_score)
            own = (pose_size, views[0].size, min_score, empty_frames)
            poses = self._read_poses(pose, pose_fit, pose_person, *own)
        self.last_notes = [n for view in views for n in view.notes]
        self.last_notes += [n for one in poses for n in one.notes]
        config = self.sampling_config(
            steps=steps, guidance=guidance, power=power, solver=solver, seed=seed
        )
        if num_images < 1:
            raise ConfigError(f"num_images is at least 1, not {num_images}")
        jobs = [(p, k) for p in range(len(poses)) for k in range(num_images)]
        noise = None
        if generator is not None:
            shape, device = self.sampler.model.latent_shape, generator.device
            noise = {job: torch.randn(shape, generator=generator, device=device) for job in jobs}
        drawn = self._draw(
            views, poses, config, jobs=jobs, noise=noise, tell=callback, square=square
        )
        shared = self.sampler.described(config, self.encoders.vae)
        if generator is not None:  # the seed says nothing then
            shared["sampling"]["seed"] = None
        images = []
        for (p, k), picture in zip(jobs, drawn, strict=True):
            image = _shown(picture, square)
            image.info.update(metadata(image_facts(shared, views, poses[p], k, square)))
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

    def _read_views(
        self,
        source: ImageLike | Sequence[ImageLike],
        keypoints: KeypointsLike | Sequence[KeypointsLike | None] | None = None,
        fit: Fit = "auto",
        person: int | None = None,
        min_score: float = MIN_SCORE,
    ) -> list[View]:
        """The views of the person, framed."""
        sources: list[Any] = list(source) if isinstance(source, (list, tuple)) else [source]
        given: list[Any] = list(keypoints) if isinstance(keypoints, (list, tuple)) else [keypoints]
        if not sources:
            raise ConfigError("no source is given", "give a picture of a person")
        if keypoints is None:
            given = [None] * len(sources)
        if len(given) != len(sources):
            raise ConfigError(
                f"{len(given)} source keypoints for {len(sources)} sources",
                "give one for each source, in their order",
            )
        return [
            read_view(
                one,
                self.resolution,
                self._openpose,
                keypoints=points,
                fit=fit,
                person=person,
                needs_keypoints=self.sampler.model.conditioning == "tokens",
                min_score=min_score,
            )
            for one, points in zip(sources, given, strict=True)
        ]

    def _read_poses(
        self,
        pose: PoseLike | Sequence[PoseLike],
        fit: Fit = "auto",
        person: int | None = None,
        pose_size: tuple[int, int] | None = None,
        source_size: tuple[int, int] | None = None,
        min_score: float = MIN_SCORE,
        empty_frames: EmptyFrames = "skip",
    ) -> list[Pose]:
        """The poses; a file may hold a sequence. ``pose_size`` (width, height) and ``source_size``
        (height, width): for keypoints in pixels that do not state it (``inputs.read_pose``)."""
        given: list[Any] = list(pose) if isinstance(pose, (list, tuple)) else [pose]
        poses = [
            found
            for one in given
            for found in read_pose(
                one,
                self.resolution,
                self._openpose,
                fit=fit,
                person=person,
                pose_size=pose_size,
                source_size=source_size,
                min_score=min_score,
                empty_frames=empty_frames,
            )
        ]
        if not poses:
            raise ConfigError("no pose is given", "give keypoints, or a picture of a pose")
        return poses

    def _draw(
        self,
        views: Sequence[View],
        poses: Sequence[Pose],
        config: SamplingConfig,
        *,
        jobs: Sequence[tuple[int, int]],
        noise: dict[tuple[int, int], Tensor] | None = None,
        batch: int | None = None,
        tell: Callback | None = None,
        square: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> Iterator[Picture]:
        """The images of ``jobs``, (pose, image of it), as they are generated.

        ``noise`` (C, h, w) of a job; None: from the config's seed.
        """
        if not jobs:
            return
        conditions = self._conditions(views, poses)
        if self.most is not None:  # a limit was set: what draws and what encodes take turns
            self.encoders.release()
        shape = self.sampler.model.latent_shape

        def work(part: Sequence[tuple[int, int]]) -> list[Picture]:
            if noise is None:
                own = start_noise(shape, config.seed, [k for _, k in part])
            else:
                own = torch.stack([noise[job] for job in part])
            rows = conditions.rows([p for p, _ in part])
            heard = None if tell is None else self._heard(tell, square)
            return list(self.encoders.vae.decode(self.sampler.latents(own, rows, config, heard)))

        size = batch or self.most or batch_size(self.sampler)
        for pictures in in_batches(jobs, size, work, say):
            yield from pictures

    def _conditions(self, views: Sequence[View], poses: Sequence[Pose]) -> Conditions:
        """Views of one person, and N poses -> the conditions of N pictures, on the CPU."""
        net, size, count = self.encoders, self.resolution, len(poses)
        pictures = np.stack([view.picture for view in views])
        scale = float(self.sampler.metadata["encoders"]["vae"]["scale"])
        drawn = np.stack([draw_pose(pose.keypoints, size) for pose in poses])

        def for_each(part: Tensor) -> Tensor:  # (K, ...) -> (K, N, ...)
            return part[:, None].expand(-1, count, *part.shape[1:])

        maps = own_maps = None
        if self.sampler.model.conditioning == "tokens":
            maps = _unit([draw_pose_map(pose.keypoints, size) for pose in poses])
            known = [view.keypoints for view in views if view.keypoints is not None]
            if len(known) < len(views):
                raise XmdptError(
                    "this model reads where the person of the source stands, and no keypoints "
                    "are known",
                    "give --source-keypoints, or OpenPose's weights (--openpose DIR)",
                )
            own_maps = for_each(_unit([draw_pose_map(points, size) for points in known]))
        return Conditions(
            pose_tokens_of(net.pose, drawn),
            for_each(source_tokens_of(net.source, pictures)),
            for_each(posterior_mean(moments_of(net.vae, pictures), scale)),
            maps,
            own_maps,
        )

    @contextmanager
    def _networks_named(self) -> Iterator[None]:
        """Around the reading of inputs: XmdptError naming at once all networks that cannot be
        found, OpenPose among them where an input needs it."""
        try:
            yield
        except NoOpenPoseError as err:
            self.encoders.find(err)
            raise
        self.encoders.find()

    def _openpose(self) -> OpenPose:
        return self.encoders.openpose

    def _heard(self, tell: Callback, square: bool) -> Callable[[Seen], None]:
        def heard(seen: Seen) -> None:
            def preview() -> Image.Image:
                return _shown(self.encoders.vae.decode(seen.clean[:1])[0], square)

            tell(seen.done, seen.steps, preview)

        return heard


def _shown(picture: Picture, square: bool) -> Image.Image:
    return Image.fromarray(picture if square else unsquash(picture))


def _unit(pictures: list[Picture]) -> Tensor:
    """uint8 (H, W, 3) each -> float32 (N, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
