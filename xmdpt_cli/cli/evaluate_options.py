"""The options of ``xmdpt evaluate`` as one object, and which of them do not go together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from xmdpt_cli.cli.console import Talk
from xmdpt_cli.cli.workspace_defaults import choose_for_measuring, choose_for_sampling
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.files import check_writable

CHOICES = ("fid", "ssim", "lpips", "psnr")  # options that choose metrics


@dataclass
class EvaluateOptions:
    """What was typed; ``generated``, ``model``, ``data``, ``vae`` and the weights are then
    completed from the workspace and the dataset. The names are those of the options."""

    generated: Path | None = None
    model: str | None = None  # None: only measure
    seeds: int = 1
    data: str | None = None
    target: Path | None = None
    real: Path | None = None
    split: str = "test"
    protocol: list[str] = field(default_factory=list)
    height: int | None = None
    drop_last: bool = False
    fid: bool = False
    ssim: bool = False
    lpips: bool = False
    psnr: bool = False
    kid: bool = False
    alexnet_weights: str | None = None
    inception_weights: str | None = None
    tf_inception_weights: str | None = None
    intervals: bool = True
    synthetic: bool = False
    limit: int | None = None
    vae: str | None = None
    device: str = "auto"

    @property
    def only(self) -> list[str]:
        """The kinds of metrics that were named; empty for all of them."""
        named = [kind for kind in CHOICES if getattr(self, kind)]
        return [*named, "kid"] if named and self.kid else named


def check_together(chosen: EvaluateOptions) -> None:
    """ConfigError for options that do not go together."""
    if chosen.target is not None:
        for name in ("data", "model", "limit", "vae"):
            if getattr(chosen, name) is not None:
                raise ConfigError(f"--{name} does not go with --target, which compares two folders")
        if chosen.generated is None:
            raise ConfigError("--target needs --generated DIR: the images to measure")
    elif chosen.real is not None:
        raise ConfigError(
            "--real goes with --target; of a dataset the training images are the reference set"
        )
    if chosen.seeds > 1 and chosen.model is None and (chosen.generated or chosen.target):
        raise ConfigError("--seeds needs --model DIR, which generates with each of them")


def check_drop_last(chosen: EvaluateOptions) -> None:
    """ConfigError where --drop-last would drop nothing: by protocol, or by what is measured."""
    if not chosen.drop_last:
        return
    from xmdpt_cli.metrics.protocols import NAMES, PROTOCOLS, get_protocol

    able = {name: get_protocol(name).batches for name in NAMES}
    names = [*PROTOCOLS] if "all" in chosen.protocol else chosen.protocol or ["cfld"]
    other = [name for name in names if not able[name]]
    if other:
        hint = " ".join(f"--protocol {name}" for name, batches in able.items() if batches)
        raise ConfigError(
            f"--drop-last: the evaluator of {', '.join(other)} drops no batch", f"take {hint}"
        )
    asked = [name for name in CHOICES if getattr(chosen, name)]
    if asked and not any(kind in able[name] for name in names for kind in asked):
        raise ConfigError(
            f"--drop-last: only FID and LPIPS drop a batch, not {', '.join(asked)}",
            "leave it out, or add --fid or --lpips",
        )


def check_report(path: Path) -> None:
    """An error unless the three files of a report can be written, before anything is measured."""
    if path.is_dir():
        raise ConfigError(f"a folder, not a file: {path}", f"--out {path / 'metrics.json'}")
    if path.suffix != ".json":
        beside = "; a CSV and an HTML page are written beside it"
        raise ConfigError(
            f"--out names a JSON file, not {path}{beside}", f"--out {path.with_suffix('.json')}"
        )
    for suffix in (".json", ".csv", ".html"):
        check_writable(path.with_suffix(suffix))


def complete(chosen: EvaluateOptions, talk: Talk) -> None:
    """Fill in from the workspace what was not given; ``model`` stays None if only to measure."""
    if chosen.target is not None:
        return
    if chosen.generated is not None and chosen.model is None:
        chosen.data, chosen.vae = choose_for_measuring(
            talk, chosen.generated, chosen.data, chosen.vae
        )
        return
    found = choose_for_sampling(
        talk, chosen.model, chosen.data, chosen.vae, chosen.generated,
        suffix="-seeds" if chosen.seeds > 1 else "",
    )  # fmt: skip
    chosen.model, chosen.data, chosen.vae = found.model, found.data, found.vae
    chosen.generated = found.out
