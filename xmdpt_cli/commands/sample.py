"""``xmdpt sample``: a model, and a prepared dataset or one's own pictures -> pictures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import typer

from xmdpt_cli.commands.options import AsJson, Device, quiet_libraries
from xmdpt_cli.commands.sample_list import listed
from xmdpt_cli.commands.sample_ways import own, pairs
from xmdpt_cli.errors import ConfigError

#: what only the one way knows, and what only the other
OWN = ("pose", "source_keypoints", "person", "pose_person", "animate", "square", "openpose",
       "dino_source", "dino_pose", "encoders")  # fmt: skip
PAIRS = ("limit", "shard")
#: what the rows of a list say themselves
LISTED = ("source", "pose", "source_keypoints", "animate")


def sample(
    model: Annotated[
        str, typer.Option(help="Model folder (RUN of xmdpt train, or of xmdpt convert) or hub id.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the PNGs and the contact sheet.")],
    data: Annotated[
        str | None, typer.Option(help="Draw all pairs of this prepared dataset: folder or URL.")
    ] = None,
    split: Annotated[str, typer.Option(help="With --data: test or train pairs.")] = "test",
    limit: Annotated[
        int | None, typer.Option(min=1, help="With --data: only the first so many pairs.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="With --data: i/n, this process draws part i (from 0) of n; torchrun "
            "does it by itself."
        ),
    ] = None,
    source: Annotated[
        list[Path] | None,
        typer.Option(help="Picture of a person; again: another view of the same person."),
    ] = None,
    pose: Annotated[
        list[Path] | None,
        typer.Option(
            help="Keypoints (json, txt, csv; a file may hold a sequence), a photograph of "
            "a pose, a drawn pose, or a folder of these; may be given again."
        ),
    ] = None,
    source_keypoints: Annotated[
        list[Path] | None,
        typer.Option(help="Keypoints of each source, in order; without, OpenPose looks."),
    ] = None,
    fit: Annotated[
        str,
        typer.Option(
            help="How a source gets the model's shape: squash (all of it, as published), "
            "pad, person (cut out), auto."
        ),
    ] = "auto",
    pose_fit: Annotated[str, typer.Option(help="The same for poses.")] = "auto",
    person: Annotated[
        int | None,
        typer.Option(min=1, help="Which of several people in it, 1 the largest."),
    ] = None,
    pose_person: Annotated[
        int | None, typer.Option(min=1, help="Which of several people in the pose.")
    ] = None,
    num_images: Annotated[int, typer.Option(min=1, help="Pictures of each pose.")] = 1,
    square: Annotated[
        bool, typer.Option("--square", help="Own pictures as the model draws them, squashed.")
    ] = False,
    animate: Annotated[
        Path | None, typer.Option(help="The poses as an animation: FILE.webp, .gif or .mp4.")
    ] = None,
    fps: Annotated[float, typer.Option(min=0.1, max=100, help="Of the animation.")] = 12.0,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps [the model's].")] = None,
    solver: Annotated[
        str | None, typer.Option(help="ddim (as published), dpmpp-2m or unipc [the model's].")
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
    seed: Annotated[int, typer.Option(min=0, help="A picture depends on it and its inputs.")] = 0,
    batch_size: Annotated[
        str, typer.Option(help="Pictures drawn together; auto: what memory allows.")
    ] = "auto",
    max_memory: Annotated[
        str | None, typer.Option(help="Stay below so much, e.g. 8GB [what the device has].")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16; auto: bf16 on a GPU.")] = "auto",
    compile_: Annotated[
        str, typer.Option("--compile", help="on, off; auto: on a GPU, and for much work.")
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
        typer.Option(help="Folder with vae, dino_source, dino_pose: instead of naming each."),
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
            help="WxH of the image that pose keypoints in pixels are of, where their file does "
            "not say it [the image of the same name beside the file, else the source]."
        ),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Draw a person in a pose: all pairs of --data, or your own --source in your own --pose, or
    the rows of a list (--pairs).

    What is there is not made again: the same command goes on. Nothing in --out is replaced: other
    settings are refused by name; another image or pose of a name that is there gets _2 behind it.
    """
    chosen = SimpleNamespace(**locals())  # so many belong together and are passed on
    if [data is None, source is None, pair_file is None].count(False) != 1:
        raise ConfigError(
            "give either --data, for the pairs of a dataset, or --source and --pose, or --pairs",
            "xmdpt sample --model DIR --source person.jpg --pose pose.json --out drawn",
        )
    _check_together(chosen)
    quiet_libraries()
    if data is not None:
        pairs(chosen)
    elif pair_file is not None:
        listed(chosen)
    else:
        own(chosen)


def _check_together(chosen: SimpleNamespace) -> None:
    """Options of the one way do nothing in the other: they are refused rather than ignored."""
    way, foreign = "--source", [*PAIRS]
    if chosen.data is not None:
        way, foreign = "--data", [*OWN, "pose_size"]
    elif chosen.pair_file is not None:
        way, foreign = "--pairs", [*LISTED, *PAIRS]
    for name in foreign:
        if getattr(chosen, name):
            raise ConfigError(f"--{name.replace('_', '-')} does not go with {way}")
    if way == "--pairs" and chosen.num_images > 1:
        raise ConfigError(
            "--num-images does not go with --pairs", "give a row for each image, with other seeds"
        )
    if way == "--source" and not chosen.pose:
        raise ConfigError("--source needs --pose", "give keypoints, or a picture of a pose")
    if chosen.paper:
        for name in ("steps", "solver", "guidance", "interval"):
            if getattr(chosen, name) is not None:
                raise ConfigError(f"--{name} does not go with --paper, which says it")
    if chosen.compile_ not in ("auto", "on", "off"):
        raise ConfigError(f"--compile is auto, on or off, not {chosen.compile_!r}")
    if chosen.batch_size != "auto" and not chosen.batch_size.isdigit():
        raise ConfigError(f"--batch-size is a number or auto, not {chosen.batch_size!r}")
    if chosen.batch_size == "0":
        raise ConfigError("--batch-size is at least 1")
