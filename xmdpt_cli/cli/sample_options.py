"""The options of ``xmdpt sample`` as one object, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmdpt_cli.cli.options import pick_device
from xmdpt_cli.errors import ConfigError

if TYPE_CHECKING:
    from xmdpt_cli.pose.framing import Fit
    from xmdpt_cli.pose.tracking import EmptyFrames
    from xmdpt_cli.sampling.inputs import InputOptions
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline
    from xmdpt_cli.sampling.sampler import Sampler
    from xmdpt_cli.storage.ranks import World

#: options of your own images only, of a dataset's pairs only, and those that a list's rows replace
OWN = (
    "pose", "source_keypoints", "person", "pose_person", "min_score", "empty_frames", "animate",
    "square", "openpose", "dino_source", "dino_pose", "encoders",
)  # fmt: skip
PAIRS = ("limit", "shard")
LISTED = ("source", "pose", "source_keypoints", "animate")
#: compiling on a CPU takes about a minute: worth it from this many forward passes on
COMPILE_FROM = 500


@dataclass
class SampleOptions:
    """What was typed; ``model``, ``data``, ``vae`` and ``out`` are then completed from the
    workspace. The names are those of the options."""

    model: str | None = None
    out: Path | None = None
    data: str | None = None
    split: str = "test"
    limit: int | None = None
    shard: str | None = None
    source: list[Path] | None = None
    pose: list[Path] | None = None
    source_keypoints: list[Path] | None = None
    fit: Fit = "auto"
    pose_fit: Fit = "auto"
    person: int | None = None
    pose_person: int | None = None
    min_score: float | None = None
    empty_frames: EmptyFrames | None = None
    num_images: int = 1
    square: bool = False
    animate: Path | None = None
    fps: float = 12.0
    steps: int | None = None
    solver: str | None = None
    guidance: float | None = None
    power: float | None = None
    interval: str | None = None
    paper: bool = False
    seed: int | None = 0  # None: as the model says
    batch_size: str = "auto"
    max_memory: str | None = None
    precision: str = "auto"
    compile_: str = "auto"
    vae: str | None = None
    dino_source: str | None = None
    dino_pose: str | None = None
    encoders: Path | None = None
    openpose: str | None = None
    pair_file: Path | None = None
    pose_size: str | None = None
    device: str = "auto"
    as_json: bool = False

    def check(self) -> None:
        """ConfigError for options that contradict each other, or would be ignored."""
        if [self.data, self.source, self.pair_file].count(None) < 2:
            raise ConfigError(
                "give one of these: --data, for the pairs of a dataset; --source and --pose; or "
                "--pairs",
                "xmdpt sample --source person.jpg --pose pose.json",
            )
        mode, foreign = "--data", [*OWN, "pose_size"]
        if self.pair_file is not None:
            mode, foreign = "--pairs", [*LISTED, *PAIRS]
        elif self.source:
            mode, foreign = "--source", [*PAIRS]
        elif self.pose and not self.data:
            raise ConfigError("--pose needs --source", "give an image of the person")
        for name in foreign:
            given = getattr(self, name)
            if given or (given == 0 and given is not False):
                raise ConfigError(f"--{name.replace('_', '-')} does not go with {mode}")
        if mode == "--pairs" and self.num_images > 1:
            raise ConfigError(
                "--num-images does not go with --pairs",
                "give a row for each image, with other seeds",
            )
        if mode == "--source" and not self.pose:
            raise ConfigError("--source needs --pose", "give keypoints, or an image of a pose")
        if self.paper:
            for name in ("steps", "solver", "guidance", "interval"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"--{name} does not go with --paper, which sets it")
        if self.batch_size != "auto" and not self.batch_size.isdigit():
            raise ConfigError(f"--batch-size is a number or auto, not {self.batch_size!r}")
        if self.batch_size == "0":
            raise ConfigError("--batch-size is at least 1")

    def sampling(self) -> dict[str, Any]:
        """Arguments of ``Sampler.sampling_config``; None where the model's own setting is used."""
        chosen: dict[str, Any] = {
            "steps": self.steps, "solver": self.solver, "guidance": self.guidance,
            "power": self.power, "seed": self.seed,
        }  # fmt: skip
        if self.paper:
            from xmdpt_cli.sampling.sampler import PAPER

            for name in ("steps", "solver", "guidance", "interval"):
                chosen[name] = getattr(PAPER, name)
            chosen["power"] = self.power or PAPER.power
        elif self.interval is not None:
            try:
                low, high = (float(end) for end in self.interval.split(":"))
            except ValueError:
                raise ConfigError(
                    f"--interval is LOW:HIGH, not {self.interval!r}", "for example 0.1:0.8"
                ) from None
            chosen["interval"] = (low, high)
        return chosen

    def world(self) -> World:
        """This process's part of the pairs: by --shard, else by torchrun."""
        from xmdpt_cli.storage.ranks import World

        if self.shard is None:
            return World.from_environment()
        try:
            rank, size = (int(number) for number in self.shard.split("/"))
            assert 0 <= rank < size
        except (ValueError, AssertionError):
            raise ConfigError(
                f"--shard is i/n with i from 0 to n - 1, not {self.shard!r}", "for example 0/4"
            ) from None
        return World(rank, size)

    def memory_limit(self) -> int | None:
        """Bytes of --max-memory."""
        from xmdpt_cli.sampling.batch_size import parse_bytes

        return None if self.max_memory is None else parse_bytes(self.max_memory)

    def input_options(self) -> InputOptions:
        """How source images and poses are read; ConfigError for what is no --pose-size."""
        from xmdpt_cli.pose.formats.image_size import parse_size
        from xmdpt_cli.pose.formats.missing import MIN_SCORE
        from xmdpt_cli.sampling.inputs import InputOptions

        return InputOptions(
            fit=self.fit,
            pose_fit=self.pose_fit,
            person=self.person,
            pose_person=self.pose_person,
            pose_size=None if self.pose_size is None else parse_size(self.pose_size),
            min_score=MIN_SCORE if self.min_score is None else self.min_score,
            empty_frames=self.empty_frames or "skip",
        )

    def pipeline(self) -> XMDPTPipeline:
        """The model with its encoders, which are loaded when needed."""
        from xmdpt_cli.sampling.pipeline import XMDPTPipeline

        assert self.model is not None
        return XMDPTPipeline.from_pretrained(
            self.model,
            device=pick_device(self.device),
            precision=self.precision,
            max_memory=self.memory_limit(),
            vae=self.vae,
            dino_source=self.dino_source,
            dino_pose=self.dino_pose,
            openpose=self.openpose,
            encoders=self.encoders,
        )

    def batch(self, sampler: Sampler, most: int, count: int, steps: int) -> int:
        """Images per batch, at most ``most`` and ``count``; compiles where that is worth it."""
        asked = most if self.batch_size == "auto" else int(self.batch_size)
        size = max(1, min(asked, count))
        much = sampler.device.type == "cuda" or -(-count // size) * steps >= COMPILE_FROM
        if self.compile_ == "on" or (self.compile_ == "auto" and much):
            sampler.compile(size)
        return size
