"""The options of ``xmdpt sample`` as one object, and the objects made from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from xmdpt_cli.cli.options import AsJson, Device, EncodersDir, pick_device
from xmdpt_cli.errors import ConfigError

if TYPE_CHECKING:
    from xmdpt_cli.sampling.inputs import InputOptions
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline
    from xmdpt_cli.storage.ranks import World

#: options of your own images only, of a dataset's pairs only, and those that a list's rows replace
OWN = (
    "pose", "source_keypoints", "person", "pose_person", "min_score", "empty_frames", "animate",
    "square", "openpose", "dino_source", "dino_pose", "encoders",
)  # fmt: skip
PAIRS = ("limit", "shard")
LISTED = ("source", "pose", "source_keypoints", "animate")


@dataclass
class SampleOptions:
    """The options as typed; ``model``, ``data``, ``vae`` and ``out`` are completed later.

    A field is an option of the command.
    """

    model: Annotated[
        str | None,
        typer.Option(
            help="Run, model folder, hub id, or toy for the toy model of the package [the newest "
            "in runs/ and models/; without one, and for no dataset: toy]."
        ),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the images and the contact sheet [samples/RUN]."),
    ] = None
    data: Annotated[
        str | None,
        typer.Option(
            help="Prepared dataset whose pairs are generated: folder or URL [the model's dataset]."
        ),
    ] = None
    split: Annotated[
        Literal["test", "train"],
        typer.Option(help="Split of the dataset whose pairs are generated."),
    ] = "test"
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Generate only the first LIMIT pairs of the dataset [all]."),
    ] = None
    shard: Annotated[
        str | None,
        typer.Option(
            help="Part of the pairs to generate, as I/N with I from 0; not needed with torchrun."
        ),
    ] = None
    source: Annotated[
        list[Path] | None,
        typer.Option(help="Image of a person; repeat for other views of the same person."),
    ] = None
    pose: Annotated[
        list[Path] | None,
        typer.Option(
            help="Pose: keypoint file (.json, .txt, .csv; also a sequence), photograph, pose "
            "image, or a folder of these; repeat for several."
        ),
    ] = None
    source_keypoints: Annotated[
        list[Path] | None,
        typer.Option(help="Keypoint file of each source image, in order [estimated by OpenPose]."),
    ] = None
    fit: Annotated[
        Literal["auto", "squash", "pad", "person"],
        typer.Option(
            metavar="<choice>",
            help="How source images are fitted to the model's shape: auto, squash (published), "
            "pad, or person (crop).",
        ),
    ] = "auto"
    pose_fit: Annotated[
        Literal["auto", "squash", "pad", "person"],
        typer.Option(
            metavar="<choice>",
            help="How poses are fitted to the model's shape: auto, squash, pad, or person.",
        ),
    ] = "auto"
    person: Annotated[
        int | None,
        typer.Option(min=1, help="Person to use in a source with several people; 1: the largest."),
    ] = None
    pose_person: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Person to use in a pose with several people; 1: the largest.",
        ),
    ] = None
    min_score: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Lowest score of a joint in a keypoint file; joints below are missing [0.1].",
        ),
    ] = None
    empty_frames: Annotated[
        Literal["skip", "hold"] | None,
        typer.Option(
            help="Frames without the person; skip: leave them out, hold: repeat the previous pose "
            "[skip]."
        ),
    ] = None
    num_images: Annotated[
        int, typer.Option(min=1, help="Number of images to generate for each pose.")
    ] = 1
    square: Annotated[
        bool, typer.Option("--square", help="Save square images, as the model generates them.")
    ] = False
    animate: Annotated[
        Path | None,
        typer.Option(help="Animation to write from the poses: FILE.webp, .gif or .mp4."),
    ] = None
    fps: Annotated[
        float, typer.Option(min=0.1, max=100, help="Frames per second of the animation.")
    ] = 12.0
    steps: Annotated[
        int | None, typer.Option(min=1, help="Number of sampling steps [the model's].")
    ] = None
    solver: Annotated[
        Literal["ddim", "dpmpp-2m", "unipc"] | None,
        typer.Option(help="Sampling solver; ddim: published [the model's]."),
    ] = None
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale gamma (paper eq. 6) [the model's].")
    ] = None
    power: Annotated[
        float | None,
        typer.Option(help="Power alpha of the guidance schedule (paper eq. 6) [the model's]."),
    ] = None
    interval: Annotated[
        str | None, typer.Option(help="Range LOW:HIGH of t/1000 in which guidance is used [0:1].")
    ] = None
    cache: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Evaluate the unconditional branch of guidance in every CACHE-th step, 2 for "
            "example, and extrapolate it in the others; 1: no cache [1].",
        ),
    ] = None
    paper: Annotated[
        bool,
        typer.Option(
            "--paper", help="Sample as in the paper: 50 steps of ddim, guidance 2, power 0.01."
        ),
    ] = False
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0
    batch_size: Annotated[
        str, typer.Option(help="Images per batch; auto: what fits in memory.")
    ] = "auto"
    max_memory: Annotated[
        str | None, typer.Option(help="Limit of the device's memory, e.g. 8GB [none].")
    ] = None
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        typer.Option(help="Precision of the model; auto: bf16 on a GPU, else fp32."),
    ] = "auto"
    compile_: Annotated[
        Literal["auto", "on", "off"],
        typer.Option("--compile", help="Use of torch.compile; auto: on a GPU, or for many images."),
    ] = "auto"
    vae: Annotated[
        str | None,
        typer.Option(
            help="VAE or tiny decoder: hub id, folder, or tiny for that of the model or the "
            "dataset [the VAE of the model or the dataset]."
        ),
    ] = None
    dino_source: Annotated[
        str | None, typer.Option(help="Source DINOv2: hub id or folder [the model's].")
    ] = None
    dino_pose: Annotated[
        str | None, typer.Option(help="Pose DINOv2: hub id or folder [the model's].")
    ] = None
    encoders: EncodersDir = None
    openpose: Annotated[
        str | None,
        typer.Option(help="OpenPose: hub id, folder or body file [lllyasviel/Annotators]."),
    ] = None
    pair_file: Annotated[
        Path | None,
        typer.Option(
            "--pairs",
            help="CSV file of images to generate, with the columns source, pose and, optionally, "
            "out, source_keypoints, seed.",
        ),
    ] = None
    pose_size: Annotated[
        str | None,
        typer.Option(
            help="Size WxH of the image that a pose's keypoints refer to, if their file lacks it "
            "[the image of the same name beside the file, else the source]."
        ),
    ] = None
    device: Device = "auto"
    as_json: AsJson = False

    def check(self) -> None:
        """ConfigError for options that contradict each other, or would be ignored."""
        if [self.data, self.source, self.pair_file].count(None) < 2:
            raise ConfigError(
                "--data, --source and --pairs cannot be combined: give the pairs of a dataset, "
                "your own images, or a list",
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
                raise ConfigError(f"--{name.replace('_', '-')} cannot be combined with {mode}")
        if mode == "--pairs" and self.num_images > 1:
            raise ConfigError(
                "--num-images cannot be combined with --pairs",
                "give one row per image, with different seeds",
            )
        if mode == "--source" and not self.pose:
            raise ConfigError("--source needs --pose", "give keypoints, or an image of a pose")
        if self.paper:
            for name in ("steps", "solver", "guidance", "interval", "cache"):
                if getattr(self, name) is not None:
                    raise ConfigError(
                        f"--{name} cannot be combined with --paper, which sets it",
                        "instead of --paper: --steps 50 --solver ddim --guidance 2 --power 0.01, "
                        f"with the --{name} that you want",
                    )
        if self.batch_size != "auto" and not self.batch_size.isdigit():
            raise ConfigError(f"--batch-size must be a number or auto, not {self.batch_size!r}")
        if self.batch_size == "0":
            raise ConfigError("--batch-size must be at least 1")

    def sampling(self) -> dict[str, Any]:
        """Arguments of ``Sampler.sampling_config``; None where the model's own setting is used."""
        chosen: dict[str, Any] = {
            "steps": self.steps, "solver": self.solver, "guidance": self.guidance,
            "power": self.power, "seed": self.seed, "cache": self.cache,
        }  # fmt: skip
        if self.paper:
            from xmdpt_cli.sampling.sampler import PAPER

            for name in ("steps", "solver", "guidance", "interval", "cache"):
                chosen[name] = getattr(PAPER, name)
            chosen["power"] = self.power or PAPER.power
        elif self.interval is not None:
            try:
                low, high = (float(end) for end in self.interval.split(":"))
            except ValueError:
                raise ConfigError(
                    f"--interval must be LOW:HIGH, not {self.interval!r}", "for example 0.1:0.8"
                ) from None
            if not 0 <= low < high <= 1:
                raise ConfigError(
                    f"--interval must be LOW:HIGH with 0 <= LOW < HIGH <= 1, not {self.interval!r}",
                    "for example 0.1:0.8",
                )
            chosen["interval"] = (low, high)
        return chosen

    def world(self) -> World:
        """This process's part of the pairs: from --shard, else from torchrun."""
        from xmdpt_cli.storage.ranks import World

        if self.shard is None:
            return World.from_environment()
        try:
            rank, size = (int(number) for number in self.shard.split("/"))
            assert 0 <= rank < size
        except (ValueError, AssertionError):
            raise ConfigError(
                f"--shard must be I/N with I from 0 to N - 1, not {self.shard!r}", "for example 0/4"
            ) from None
        return World(rank, size)

    def memory_limit(self) -> int | None:
        """Bytes of --max-memory."""
        from xmdpt_cli.sampling.batch_size import parse_bytes

        return None if self.max_memory is None else parse_bytes(self.max_memory)

    def input_options(self) -> InputOptions:
        """How source images and poses are read; ConfigError for an invalid --pose-size."""
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

    def given_batch_size(self) -> int | None:
        """--batch-size; None for auto."""
        return None if self.batch_size == "auto" else int(self.batch_size)

    def batch(self, pipe: XMDPTPipeline, images: int, steps: int) -> int:
        """Images per batch; compiles the model if that pays."""
        from xmdpt_cli.sampling.batch_size import batch_and_compile, batch_size

        largest = self.given_batch_size() or pipe.max_batch or batch_size(pipe.sampler)
        return batch_and_compile(pipe.sampler, largest, images, steps, self.compile_)
