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
            help="Generate all pairs of this dataset, a folder or URL [the model's dataset]."
        ),
    ] = None,
    split: Annotated[
        Literal["test", "train"], typer.Option(help="Which pairs of the dataset.")
    ] = "test",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first LIMIT pairs of the dataset [all].")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="I/N: generate part I (from 0) of N. torchrun does this by itself."),
    ] = None,
    source: Annotated[
        list[Path] | None,
        typer.Option(help="Image of a person; again: another view of the same person."),
    ] = None,
    pose: Annotated[
        list[Path] | None,
        typer.Option(
            help="Keypoints (.json, .txt, .csv; a file may hold a sequence), a photograph, a "
            "drawn pose, or a folder of these; may be given again."
        ),
    ] = None,
    source_keypoints: Annotated[
        list[Path] | None,
        typer.Option(help="Keypoints of each source, in order [estimated by OpenPose]."),
    ] = None,
    fit: Annotated[
        Literal["auto", "squash", "pad", "person"],
        typer.Option(
            help="How a source gets the model's shape; squash: as published, person: cut out."
        ),
    ] = "auto",
    pose_fit: Annotated[
        Literal["auto", "squash", "pad", "person"], typer.Option(help="The same for poses.")
    ] = "auto",
    person: Annotated[
        int | None,
        typer.Option(min=1, help="Which of several people in the source; 1 is the largest."),
    ] = None,
    pose_person: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Which of several people in the pose, of a sequence in its first frame.",
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Joints of keypoint files with a lower score are not found [0.1]."
        ),
    ] = None,
    empty_frames: Annotated[
        Literal["skip", "hold"] | None,
        typer.Option(
            help="Frames of a sequence without the person: leave them out, or repeat the pose "
            "before [skip]."
        ),
    ] = None,
    num_images: Annotated[int, typer.Option(min=1, help="Images of each pose.")] = 1,
    square: Annotated[
        bool, typer.Option("--square", help="Save square images, as the model generates them.")
    ] = False,
    animate: Annotated[
        Path | None, typer.Option(help="The poses as an animation: FILE.webp, .gif or .mp4.")
    ] = None,
    fps: Annotated[
        float, typer.Option(min=0.1, max=100, help="Frames per second of the animation.")
    ] = 12.0,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps [the model's].")] = None,
    solver: Annotated[
        Literal["ddim", "dpmpp-2m", "unipc"] | None,
        typer.Option(help="Solver; ddim: as published [the model's]."),
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale gamma (eq. 6) [the model's].")
    ] = None,
    power: Annotated[
        float | None, typer.Option(help="Power alpha of its schedule (eq. 6) [the model's].")
    ] = None,
    interval: Annotated[
        str | None, typer.Option(help="Guide only where t/1000 lies in LOW:HIGH [0:1].")
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="The paper's sampling: 50 steps of ddim, guidance 2.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    batch_size: Annotated[
        str, typer.Option(help="Images per batch; auto: what memory allows.")
    ] = "auto",
    max_memory: Annotated[
        str | None, typer.Option(help="Memory limit, e.g. 8GB [what the device has].")
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], typer.Option(help="auto: bf16 on a GPU, else fp32.")
    ] = "auto",
    compile_: Annotated[
        Literal["auto", "on", "off"],
        typer.Option("--compile", help="torch.compile; auto: on a GPU, and for much work."),
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
        typer.Option(help="Folder with vae/, dino_source/ and dino_pose/, for all three."),
    ] = None,
    openpose: Annotated[
        str | None, typer.Option(help="Folder or file of OpenPose's body network, or hub id.")
    ] = None,
    pair_file: Annotated[
        Path | None,
        typer.Option(
            "--pairs",
            help="List of many images to generate: a CSV file with the columns source, pose "
            "and, optionally, out, source_keypoints, seed.",
        ),
    ] = None,
    pose_size: Annotated[
        str | None,
        typer.Option(
            help="WxH of the image that pose keypoints are of, where their file does "
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
