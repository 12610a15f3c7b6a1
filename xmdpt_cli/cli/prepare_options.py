"""The options of ``xmdpt prepare`` as one object, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from xmdpt_cli.cli.options import AsJson, Device
from xmdpt_cli.cli.workspace import DATA
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.storage.stores import is_url


@dataclass
class PrepareOptions:
    """The options as typed. A field is an option of the command."""

    context: typer.Context
    root: Annotated[
        Path | None,
        typer.Option(help="Folder of the raw dataset: images, and pair lists if it has any."),
    ] = None
    out: Annotated[
        str | None,
        typer.Option(help="Folder or URL to write, or to resume [data/RESOLUTION]."),
    ] = None
    resolution: Annotated[
        list[int] | None,
        typer.Option(
            "--resolution",
            "--size",
            help="Side of the square images in pixels; repeat for several [256].",
        ),
    ] = None
    layout: Annotated[
        str,
        typer.Option(
            metavar="<layout>",
            help="Layout of ROOT: auto, deepfashion, or people (a folder of images per person).",
        ),
    ] = "auto"
    pose: Annotated[
        Literal["auto", "openpose"],
        typer.Option(
            help="Source of keypoints; auto: the dataset's, else OpenPose; openpose: all."
        ),
    ] = "auto"
    frame: Annotated[
        str,
        typer.Option(
            help="Frame of the keypoint files: 256x176, 256x256-padded, pixels, fractions, WxH; "
            "auto: detected from the values."
        ),
    ] = "auto"
    openpose: Annotated[
        str | None,
        typer.Option(help="OpenPose: hub id, folder or body file [lllyasviel/Annotators]."),
    ] = None
    encoders: Annotated[
        str,
        typer.Option(
            help="Encoders: pretrained, toy (small, trained first), or a folder of encoders."
        ),
    ] = "pretrained"
    vae: Annotated[
        str | None, typer.Option(help="VAE: hub id or folder [stabilityai/sd-vae-ft-mse].")
    ] = None
    dino_source: Annotated[
        str | None, typer.Option(help="Source DINOv2: hub id or folder [facebook/dinov2-giant].")
    ] = None
    dino_pose: Annotated[
        str | None, typer.Option(help="Pose DINOv2: hub id or folder [facebook/dinov2-base].")
    ] = None
    tokens: Annotated[
        Literal["bf16", "fp8"],
        typer.Option(help="Number type of the stored DINOv2 tokens; fp8: half the bytes."),
    ] = "bf16"
    vae_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Training steps of the toy VAE [600; above 128 px: 1200]."),
    ] = None
    seed: Annotated[
        int,
        typer.Option(
            min=0, help="Random seed of the pairs of your own images and of toy encoders."
        ),
    ] = 0
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Prepare only the first LIMIT people of each split [all]."),
    ] = None
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch of the encoders.")] = 16
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, help="Number of processes that decode images; 0: threads [one per core]."
        ),
    ] = None
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first file that cannot be used.")
    ] = False
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the plan (images, bytes, time) and write nothing."),
    ] = False
    check_dir: Annotated[
        str | None,
        typer.Option("--check", help="Prepared dataset to verify: folder or URL."),
    ] = None
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Repair the dataset of --check; with --root, prepare broken shards again.",
        ),
    ] = False
    write_annotations: Annotated[
        Path | None,
        typer.Option(
            help="Folder in which all keypoints are also written, in both published formats."
        ),
    ] = None
    device: Device = "auto"
    as_json: AsJson = False

    @property
    def outs(self) -> dict[int, str]:
        """Resolution in pixels -> the folder or URL of its dataset."""
        sizes = sorted(set(self.resolution or [256]))
        if self.out and len(sizes) == 1:
            return {sizes[0]: self.out}
        parent = f"{self.out or DATA}".rstrip("/")
        return {size: f"{parent}/{size}" for size in sizes}

    def given(self) -> dict[str, Any]:
        """The options on the command line by name, without those of the environment."""
        sources = {name: self.context.get_parameter_source(name) for name in self.context.params}
        return {
            name: self.context.params[name]
            for name, source in sources.items()
            if source is not None and source.name == "COMMANDLINE"
        }

    @property
    def encoder_paths(self) -> dict[str, str | None] | str | None:
        """Hub id or folder of each encoder, a folder of all three, or None for toys."""
        if self.encoders == "toy":
            return None
        if self.encoders != "pretrained":
            return self.encoders
        return {"vae": self.vae, "source": self.dino_source, "pose": self.dino_pose}

    def check(self) -> None:
        """ConfigError for options that do not go together."""
        if self.repair:
            raise ConfigError("--repair needs --check DIR")
        if self.root is None:
            raise ConfigError(
                "--root is missing: the folder of the raw dataset",
                "xmdpt prepare --root DeepFashion; or, to verify a prepared dataset, --check DIR",
            )
        encoders = self.encoders
        for option in ("vae", "dino_source", "dino_pose"):
            if encoders != "pretrained" and getattr(self, option):
                name = f"--{option.replace('_', '-')}"
                raise ConfigError(
                    f"{name} and --encoders {encoders} cannot be combined: both name encoders"
                )
        if encoders not in ("pretrained", "toy") and not Path(encoders).is_dir():
            raise ConfigError(
                f"--encoders is 'pretrained', 'toy' or a folder of encoders, not {encoders!r}"
            )
        if encoders == "toy" and any(map(is_url, self.outs.values())):
            raise ConfigError(
                "toy encoders need a local output folder, and --out is a URL",
                "prepare into a folder first; then use --encoders FOLDER/encoders",
            )
        for size in self.outs:
            if size < 16 or size % 16:
                raise ConfigError(
                    f"--resolution must be a positive multiple of 16, not {size}",
                    "the published ones are --resolution 256 and --resolution 512",
                )
