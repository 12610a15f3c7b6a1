"""``xmdpt sample``: a model, and a prepared dataset or one's own pictures -> pictures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal

import typer

from xmdpt_cli.cli.console import Talk
from xmdpt_cli.cli.help import panels
from xmdpt_cli.cli.options import AsJson, Device, quiet_libraries
from xmdpt_cli.cli.sample_list import listed
from xmdpt_cli.cli.sample_modes import own, pairs
from xmdpt_cli.cli.workspace_defaults import choose_for_sampling
from xmdpt_cli.errors import ConfigError

#: what only the one way knows, and what only the other
OWN = ("pose", "source_keypoints", "person", "pose_person", "min_score", "empty_frames",
       "animate", "square", "openpose", "dino_source", "dino_pose", "encoders")  # fmt: skip
PAIRS = ("limit", "shard")
#: what the rows of a list say themselves
LISTED = ("source", "pose", "source_keypoints", "animate")


@panels(
    {
        "Model and output": "model out vae dino-source dino-pose encoders openpose",
        "The pairs of a dataset": "data split limit shard",
        "Your own images": "source pose pairs source-keypoints pose-size fit pose-fit person "
        "pose-person min-score empty-frames num-images square animate fps",
        "Sampling": "steps solver guidance power interval paper seed",
        "Speed and memory": "batch-size max-memory precision compile",
    }
)
def sample(
    model: Annotated[
        str | None,
        typer.Option(help="Run, model folder or hub id [the newest in runs/ and models/]."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the images and the contact sheet [samples/RUN]."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Prepared dataset whose pairs are generated: folder or URL [the model's dataset]."
        ),
    ] = None,
    split: Annotated[
        Literal["test", "train"],
        typer.Option(help="Split of the dataset whose pairs are generated."),
    ] = "test",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Generate only the first LIMIT pairs of the dataset [all]."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="Part I (from 0) of N to generate, as I/N; torchrun needs no --shard."),
    ] = None,
    source: Annotated[
        list[Path] | None,
        typer.Option(help="Image of a person; repeat for other views of the same person."),
    ] = None,
    pose: Annotated[
        list[Path] | None,
        typer.Option(
            help="Pose: keypoints (.json, .txt, .csv; also a sequence), a photograph, a "
            "pose image, or a folder of these; repeat for several."
        ),
    ] = None,
    source_keypoints: Annotated[
        list[Path] | None,
        typer.Option(help="Keypoints of each source image, in order [estimated by OpenPose]."),
    ] = None,
    fit: Annotated[
        Literal["auto", "squash", "pad", "person"],
        typer.Option(
            metavar="<choice>",
            help="How source images get the model's shape: auto, squash (published), pad, or "
            "person (crop around it).",
        ),
    ] = "auto",
    pose_fit: Annotated[
        Literal["auto", "squash", "pad", "person"],
        typer.Option(
            metavar="<choice>",
            help="How poses get the model's shape: auto, squash, pad or person, as --fit.",
        ),
    ] = "auto",
    person: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of the person in a source with several people; 1 is the largest."
        ),
    ] = None,
    pose_person: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of the person in a pose (or first frame) with several people.",
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Lowest score of a joint in keypoint files; lower ones are missing [0.1].",
        ),
    ] = None,
    empty_frames: Annotated[
        Literal["skip", "hold"] | None,
        typer.Option(
            help="What to do with frames without the person: leave them out, or repeat the pose "
            "before [skip]."
        ),
    ] = None,
    num_images: Annotated[
        int, typer.Option(min=1, help="Number of images to generate for each pose.")
    ] = 1,
    square: Annotated[
        bool, typer.Option("--square", help="Save square images, as the model generates them.")
    ] = False,
    animate: Annotated[
        Path | None, typer.Option(help="Animation of the poses to write: FILE.webp, .gif or .mp4.")
    ] = None,
    fps: Annotated[
        float, typer.Option(min=0.1, max=100, help="Frames per second of the animation.")
    ] = 12.0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Number of sampling steps [the model's].")
    ] = None,
    solver: Annotated[
        Literal["ddim", "dpmpp-2m", "unipc"] | None,
        typer.Option(help="Sampling solver; ddim: published [the model's]."),
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale gamma (eq. 6) [the model's].")
    ] = None,
    power: Annotated[
        float | None,
        typer.Option(help="Power alpha of the guidance schedule (eq. 6) [the model's]."),
    ] = None,
    interval: Annotated[
        str | None, typer.Option(help="Range LOW:HIGH of t/1000 in which guidance is used [0:1].")
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="Sample as in the paper: 50 steps of ddim, guidance 2.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    batch_size: Annotated[
        str, typer.Option(help="Images per batch; auto: what memory allows.")
    ] = "auto",
    max_memory: Annotated[
        str | None, typer.Option(help="Limit of the device's memory, e.g. 8GB [all of it].")
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        typer.Option(help="Precision of the model; auto: bf16 on a GPU, else fp32."),
    ] = "auto",
    compile_: Annotated[
        Literal["auto", "on", "off"],
        typer.Option("--compile", help="Use of torch.compile; auto: on a GPU, and for much work."),
    ] = "auto",
    vae: Annotated[
        str | None, typer.Option(help="VAE: hub id or folder [the model's or the dataset's].")
    ] = None,
    dino_source: Annotated[
        str | None, typer.Option(help="DINOv2 for sources: hub id or folder [the model's].")
    ] = None,
    dino_pose: Annotated[
        str | None, typer.Option(help="DINOv2 for poses: hub id or folder [the model's].")
    ] = None,
    encoders: Annotated[
        Path | None,
        typer.Option(help="Folder with vae/, dino_source/ and dino_pose/, instead of naming each."),
    ] = None,
    openpose: Annotated[
        str | None, typer.Option(help="OpenPose body network: folder, file or hub id.")
    ] = None,
    pair_file: Annotated[
        Path | None,
        typer.Option(
            "--pairs",
            help="CSV file of many images to generate, with the columns source, pose "
            "and, optionally, out, source_keypoints, seed.",
        ),
    ] = None,
    pose_size: Annotated[
        str | None,
        typer.Option(
            help="Size WxH of the image that the keypoints of a pose refer to, if their file does "
            "not say it [the image of the same name beside the file, else the source]."
        ),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Generate a person in a pose.

    The test pairs of the dataset, or your own --source in your own --pose, or the rows of a list
    (--pairs). Images that are there are not made again: the same command resumes. Nothing in --out
    is replaced: other settings are refused by name; another image or pose of a name that is there
    gets _2 behind it.
    """
    chosen = SimpleNamespace(**locals())  # so many belong together and are passed on
    if [data, source, pair_file].count(None) < 2:
        raise ConfigError(
            "give one of them: --data, for the pairs of a dataset; --source and --pose; or --pairs",
            "xmdpt sample --source person.jpg --pose pose.json",
        )
    _check_together(chosen)
    quiet_libraries()
    from xmdpt_cli.storage.ranks import World

    talk = Talk(as_json, quiet=shard is None and World.from_environment().rank > 0)
    found = choose_for_sampling(
        talk, model, data, vae, out, own=data is None and (source or pair_file) is not None
    )
    chosen.model, chosen.data, chosen.vae, chosen.out = (
        found.model,
        found.data,
        found.vae,
        found.out,
    )
    if pair_file is not None:
        listed(chosen)
    elif source is not None:
        own(chosen)
    else:
        pairs(chosen)


def _check_together(chosen: SimpleNamespace) -> None:
    """Options of the one way do nothing in the other: they are refused rather than ignored."""
    way, foreign = "--data", [*OWN, "pose_size"]
    if chosen.pair_file is not None:
        way, foreign = "--pairs", [*LISTED, *PAIRS]
    elif chosen.source:
        way, foreign = "--source", [*PAIRS]
    elif chosen.pose and not chosen.data:
        raise ConfigError("--pose needs --source", "give an image of the person")
    for name in foreign:
        given = getattr(chosen, name)
        if given or (given == 0 and given is not False):
            raise ConfigError(f"--{name.replace('_', '-')} does not go with {way}")
    if way == "--pairs" and chosen.num_images > 1:
        raise ConfigError(
            "--num-images does not go with --pairs", "give a row for each image, with other seeds"
        )
    if way == "--source" and not chosen.pose:
        raise ConfigError("--source needs --pose", "give keypoints, or an image of a pose")
    if chosen.paper:
        for name in ("steps", "solver", "guidance", "interval"):
            if getattr(chosen, name) is not None:
                raise ConfigError(f"--{name} does not go with --paper, which says it")
    if chosen.batch_size != "auto" and not chosen.batch_size.isdigit():
        raise ConfigError(f"--batch-size is a number or auto, not {chosen.batch_size!r}")
    if chosen.batch_size == "0":
        raise ConfigError("--batch-size is at least 1")
