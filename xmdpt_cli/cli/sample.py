"""``xmdpt sample``: a model, and a prepared dataset or your own images -> generated images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from xmdpt_cli.cli.console import Talk
from xmdpt_cli.cli.help import panels
from xmdpt_cli.cli.options import AsJson, Device, EncodersDir, quiet_libraries
from xmdpt_cli.cli.sample_list import sample_list
from xmdpt_cli.cli.sample_modes import sample_own, sample_pairs
from xmdpt_cli.cli.sample_options import SampleOptions
from xmdpt_cli.cli.workspace_defaults import choose_for_sampling


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
    encoders: EncodersDir = None,
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
    (--pairs). The same command again resumes: existing images are kept. Nothing in --out is
    replaced: other settings are refused by name, and another image or pose of the same name gets
    the suffix _2.
    """
    chosen = SampleOptions(**locals())
    chosen.check()
    quiet_libraries()
    talk = Talk(as_json, quiet=shard is None and chosen.world().rank > 0)
    own_images = data is None and (source or pair_file) is not None
    found = choose_for_sampling(talk, model, data, vae, out, own=own_images)
    chosen.model, chosen.data = found.model, found.data
    chosen.vae, chosen.out = found.vae, found.out
    if pair_file is not None:
        sample_list(chosen)
    elif source is not None:
        sample_own(chosen)
    else:
        sample_pairs(chosen)
