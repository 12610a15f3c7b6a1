"""A model folder: config.json and model.safetensors, which ``from_pretrained`` reads, and
xmdpt.json, the metadata that sampling needs.

The metadata: schedule and prediction, sampling defaults, resolution in pixels, the encoders whose
features the model was trained on (as ``Encoders.describe`` returns them; sha256 None: unknown),
toy, trained_steps (None: unknown), how it was distilled, if it was, and the model that its training
started from, if it did not start from random weights.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import torch
from annotated_types import Ge, MaxLen
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from typing_extensions import NotRequired, TypedDict

from xmdpt_cli.encoders.identity import HUB, POSITION_TABLE, EncodersRecord
from xmdpt_cli.encoders.places import with_places
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import apply_umask, writing
from xmdpt_cli.model.distilled import Distilled, check_distilled
from xmdpt_cli.model.xmdpt import XMDPT
from xmdpt_cli.utils import records
from xmdpt_cli.utils.weights_files import check_state_dict, check_whole

FORMAT, VERSION = "xmdpt-model", 2
CONFIG, WEIGHTS, METADATA = "config.json", "model.safetensors", "xmdpt.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_HINT = (
    "name the folder that `xmdpt train` wrote (RUN/model), or make one of a published checkpoint: "
    "xmdpt convert CHECKPOINT --out DIR"
)
_ONE_MODEL = f"{WEIGHTS} and {CONFIG} must be of one model: copy the folder again"


class _Kind(TypedDict):
    """The fields that identify the format and its version."""

    format: NotRequired[object]
    version: int


class Defaults(TypedDict):
    """The default settings of sampling."""

    steps: Annotated[int, Ge(1)]
    solver: NotRequired[str]
    guidance: float
    power: float


class InitialModel(TypedDict):
    """The model whose weights a training started from, in place of random ones."""

    sha256: str  # of its weights (``Sampler.identity``)
    name: str  # of its folder, or its hub id
    trained_steps: int | None


class Metadata(TypedDict):
    """xmdpt.json."""

    schedule: str
    prediction: str
    sampling: Defaults
    resolution: Annotated[int, Ge(1)]
    encoders: EncodersRecord
    toy: bool
    trained_steps: int | None
    trained_on: NotRequired[dict[str, int]]
    data: NotRequired[str]
    distilled: NotRequired[Distilled]
    initial: NotRequired[InitialModel]


def is_model_folder(folder: str | Path) -> bool:
    """Whether the folder holds weights and the config.json of an XMDPT."""
    try:
        return (Path(folder) / WEIGHTS).is_file() and bool(read_config(Path(folder)))
    except XmdptError:
        return False


def save_model(folder: str | Path, model: XMDPT, metadata: Mapping[str, Any]) -> None:
    """Write the model folder; after an error it is unchanged. Raises XmdptError if it cannot be.

    Other files in an existing folder are kept (``vae/``, its README).
    """
    folder = Path(folder)
    exists = folder.is_dir()
    # on the same file system, so that a rename puts it in place
    part = folder / ".part" if exists else folder.with_name(folder.name + ".part")
    with writing(folder):
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            model.save_pretrained(part)
            text = json.dumps({"format": FORMAT, "version": VERSION, **metadata}, indent=2)
            (part / METADATA).write_text(text, encoding="utf-8")
            apply_umask(part)
            for path in part.iterdir():
                _to_disk(path)
            if exists:
                _replace(part, folder)
            else:
                part.rename(folder)
        except SafetensorError as err:  # how that library reports the disk's errors
            raise OSError(str(err)) from err
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _replace(part: Path, folder: Path) -> None:
    """The metadata is deleted first and written last: a kill never leaves new weights beside old
    metadata."""
    (folder / METADATA).unlink(missing_ok=True)
    for path in list(part.iterdir()):
        if path.name == METADATA or (path.name == "README.md" and (folder / path.name).exists()):
            continue
        path.replace(folder / path.name)
    (part / METADATA).replace(folder / METADATA)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def published_metadata(
    model: XMDPT, resolution: int | None = None, trained_steps: int | None = None
) -> dict[str, Any]:
    """The metadata of a model that the published code trained: noise prediction, linear schedule,
    features of the hub's networks, whose files are not known (sha256 None).

    ``resolution`` in pixels; None: 8 times the latent size.
    """
    channels, side, _ = model.latent_shape
    vae = {"scale": 0.18215, "factor": 8, "channels": channels}  # published code
    return {
        "schedule": "linear",
        "prediction": "epsilon",
        # eq. 6; power by sec. 4.1: 0.01 for the best SSIM and LPIPS, 1.0 for the best FID. 20 steps
        # of UniPC are as close to the exact solution as 50 of DDIM (experiments/solvers.py)
        "sampling": {"steps": 20, "solver": "unipc", "guidance": 2.0, "power": 0.01},
        "resolution": resolution or side * 8,
        "encoders": {
            "vae": {**_on_hub("stabilityai/sd-vae-ft-mse"), **vae},
            "source": _dino(*model.canet.source_shape),
            "pose": _dino(*model.canet.pose_shape),
            "toy": False,
        },
        "toy": False,
        "trained_steps": trained_steps,
    }


def _on_hub(name: str) -> dict[str, Any]:
    """An encoder as in ``Encoders.describe``, of which only the id is known."""
    known = {"kind": "hub", "id": name, "revision": None, "sha256": None}
    return {**known, "dtype": "float32", "toy": False}


def _dino(length: int, width: int) -> dict[str, Any]:
    """DINOv2's size follows from its width (paper Table 2c compares several)."""
    size = {384: "small", 768: "base", 1024: "large", 1536: "giant"}.get(width)
    known = _on_hub(f"facebook/dinov2-{size}" if size else f"a DINOv2 of width {width}")
    # torch.hub's DINOv2 made the tokens
    return {**known, "input_size": 224, "length": length, "width": width, POSITION_TABLE: HUB}


def load_model(
    folder: str | Path, device: str | torch.device = "cpu"
) -> tuple[XMDPT, dict[str, Any]]:
    """The model in evaluation mode, and its metadata, from a model's or a run's folder.

    Raises XmdptError that names the file if one is missing, broken, of another version or kind, if
    the weights are not exactly the model's tensors, or if a student's metadata do not fit it.
    """
    folder = find_model(Path(folder))
    metadata = read_metadata(folder)
    check_whole(folder / WEIGHTS)
    model = _built(folder)
    check_distilled(metadata, folder / METADATA, model.guidance_embed is not None)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as err:
        raise _broken(folder, err) from err
    expected = model.state_dict()
    what = f"cannot load the model in {folder}: {WEIGHTS}"
    check_state_dict(tensors, expected, what, _ONE_MODEL)
    # copied: tensors in a mapped file may be unaligned for matrix products
    own = {name: value.to(expected[name].dtype, copy=True) for name, value in tensors.items()}
    model.load_state_dict(own, assign=True)
    return model.eval().to(device), metadata


def find_model(folder: Path) -> Path:
    """The folder itself, or the model in a run's folder; XmdptError if it is something else."""
    if folder.is_file():
        raise XmdptError(
            f"{folder} is a file, not a model folder",
            f"a published checkpoint becomes one: xmdpt convert {folder} --out DIR",
        )
    if not folder.is_dir():
        raise XmdptError(
            f"no such model folder: {folder}", "xmdpt status lists the models of this folder"
        )
    if not (folder / METADATA).is_file() and (folder / "model" / METADATA).is_file():
        return folder / "model"  # a run's folder
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles and not (folder / WEIGHTS).is_file():
        raise XmdptError(
            f"not a model folder: {folder} has no {WEIGHTS}, only {pickles[0]}, a pickle, which "
            "could run code",
            f"if it is a published checkpoint: xmdpt convert {folder / pickles[0]} --out DIR",
        )
    if (folder / "run.json").is_file():
        raise XmdptError(
            f"{folder} has no model yet: its training was interrupted",
            f"resume it: xmdpt {_command_of(folder)} --config {folder / 'config.toml'} "
            f"--out {folder}",
        )
    for name in (CONFIG, WEIGHTS, METADATA):
        if not (folder / name).is_file():
            raise XmdptError(f"not a model folder: {folder} has no {name}", _HINT)
    return folder


def _command_of(run: Path) -> str:
    """The command that writes a run: "train", or "distill" if its record names a teacher."""
    try:
        record = records.read(dict[str, Any], run / "run.json")
    except XmdptError:
        return "train"
    return "distill" if "teacher" in record else "train"


def read_metadata(folder: Path) -> dict[str, Any]:
    """xmdpt.json, with its format, version, fields and their types checked."""
    path = folder / METADATA
    kind = records.read(_Kind, path)
    if kind.get("format") != FORMAT:
        raise XmdptError(f"{path} does not describe a model (no format {FORMAT!r})", _HINT)
    if kind["version"] > VERSION:
        raise XmdptError(
            f"{folder} was written by a newer xmdpt: {METADATA} has version {kind['version']}, "
            f"this one reads {VERSION}",
            "pip install --upgrade xmdpt-cli",
        )
    if kind["version"] < VERSION:
        raise XmdptError(
            f"{folder} was written by an older xmdpt: {METADATA} has version {kind['version']}, "
            f"this one reads {VERSION}",
            "train the model again; of a published checkpoint: xmdpt convert CHECKPOINT --out DIR",
        )
    metadata: dict[str, Any] = records.read(Metadata, path)
    return with_places(folder, metadata)


@cache
def _config_schema() -> Any:
    """The arguments of XMDPT with their types."""
    hints = get_type_hints(XMDPT.__init__)
    hints.pop("return")
    text = Annotated[str, MaxLen(100)]
    typed = {name: NotRequired[text if kind is str else kind] for name, kind in hints.items()}
    return TypedDict("_Config", typed)  # type: ignore[operator]


def read_config(folder: Path) -> dict[str, Any]:
    """config.json with its types checked; XmdptError if it is not an XMDPT's."""
    path = folder / CONFIG
    config: dict[str, Any] = records.read(dict[str, Any], path)
    known = set(inspect.signature(XMDPT.__init__).parameters) - {"self"}
    foreign = sorted(set(config) - known)
    missing = sorted({"depth", "width", "heads", "latent_size"} - set(config))
    if foreign or missing:
        wrong = f"has {', '.join(foreign[:3])}" if foreign else f"lacks {', '.join(missing)}"
        raise XmdptError(f"{path} is not that of an XMDPT: it {wrong}", _HINT)
    records.check(_config_schema(), config, path)
    return config


def _built(folder: Path) -> XMDPT:
    """The model that config.json describes, without memory for its weights (meta device).

    Its sizes are compared with the header of the weights first: a model of 100,000 blocks takes
    hours to build.
    """
    config = read_config(folder)
    try:
        stored = settings_of(shapes_in(folder / WEIGHTS))
    except (SafetensorError, OSError) as err:
        raise _broken(folder, err) from err
    defaults = inspect.signature(XMDPT.__init__).parameters
    for name, value in stored.items():
        described = config.get(name, defaults[name].default)
        if described != value:
            raise XmdptError(
                f"cannot load the model in {folder}: {CONFIG} says {name} {described}, the tensors "
                f"in {WEIGHTS} have {value}",
                _ONE_MODEL,
            )
    try:
        with torch.device("meta"):
            return XMDPT(**config)
    except XmdptError as err:
        raise XmdptError(f"cannot load the model in {folder}: {err.message} ({CONFIG})") from err
    except Exception as err:  # values that the layers refuse
        raise XmdptError(
            f"cannot load the model in {folder}: {CONFIG} describes no model ({_first(err)})"
        ) from err


def _broken(folder: Path, err: Exception) -> XmdptError:
    return XmdptError(
        f"cannot load the model in {folder}: {WEIGHTS} is broken ({_first(err)})", "copy it again"
    )


def _first(err: Exception) -> str:
    return str(err).splitlines()[0] if str(err) else type(err).__name__


# the header of the weights


def shapes_in(weights: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a safetensors file; only its header is read."""
    with safe_open(weights, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def settings_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The arguments of ``XMDPT`` as far as the shapes of its tensors determine them; tensors by
    their published names, with or without our part before them."""
    shapes = {name.removeprefix("canet.").removeprefix("tdnet."): s for name, s in shapes.items()}
    found: dict[str, Any] = {}
    blocks = {m[1] for name in shapes if (m := re.match(r"blocks\.(\d+)\.", name))}
    found["depth"] = len(blocks)
    if "x_embedder.proj.weight" in shapes:
        found["width"], channels, patch, _ = shapes["x_embedder.proj.weight"]
        found |= {"latent_channels": channels, "patch": patch}
        if "pos_embed" in shapes:
            found["latent_size"] = math.isqrt(shapes["pos_embed"][1]) * patch
    table = "blocks.0.attn.rel_pos_bias.relative_position_bias_table"
    gain = "blocks.0.attn.qk_norm.q.weight"
    if table in shapes:
        found["heads"] = shapes[table][1]
    elif gain in shapes and "width" in found:
        found["heads"] = found["width"] // shapes[gain][0]
    if blocks:
        found |= {"positions": "bias" if table in shapes else "rope", "qk_norm": gain in shapes}
    for part, mlp, conv in (("pose", "pose", "pose"), ("source", "img", "global")):
        if f"mlp_dino_{mlp}.0.weight" in shapes:
            found[f"{part}_width"] = shapes[f"mlp_dino_{mlp}.0.weight"][1]
        if f"conv1d_{conv}.0.weight" in shapes:
            found[f"{part}_length"] = shapes[f"conv1d_{conv}.0.weight"][1]
    tokens = any(name.startswith("tokens.") for name in shapes)
    return found | {"conditioning": "tokens" if tokens else "vector"}
