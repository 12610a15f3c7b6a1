"""Where the weights of a frozen network come from: a local folder or the hub, and which exactly.

A prepared dataset identifies its encoders by ``Origin.describe``, so that features of different
networks are never mixed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, snapshot_download
from safetensors.torch import save as to_bytes
from typing_extensions import TypedDict

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import atomic_write, expanded, sha256_of
from xmdpt_cli.utils import records
from xmdpt_cli.utils.weights_files import check_whole, missing_shards, unfinished

# beside config.json of a toy: a network for trying things out, not trained on photographs
TOY_MARK = "xmdpt_toy.json"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_AGAIN = "fetch or copy it again"


class NotFetchedError(XmdptError):
    """A repository of the hub is not on this machine and cannot be fetched (``why``)."""

    def __init__(self, what: str, why: str, hint: str) -> None:
        super().__init__(f"{what} is not on this machine and cannot be fetched ({why})", hint)
        self.why = why


class _Mark(TypedDict):
    """``TOY_MARK``."""

    id: str


@dataclass
class Origin:
    """Where a network was loaded from."""

    kind: str  # "hub", "local" or "toy"
    id: str  # the hub id, the folder, or the name of the toy
    revision: str | None = None  # the hub commit
    files: list[Path] = field(default_factory=list)  # of the weights; none: a toy in memory

    @property
    def toy(self) -> bool:
        return self.kind == "toy"

    def describe(self, net: torch.nn.Module, **more: Any) -> dict[str, Any]:
        """JSON-ready: kind, id, revision, sha256, dtype, toy, and the network's own entries.

        The sha256 is that of the weight file. Toys are trained in place: theirs is computed from
        the weights in memory, and is the same before saving and after loading.
        """
        dtype = next(net.parameters()).dtype
        return {
            "kind": self.kind,
            "id": self.id,
            "revision": self.revision,
            "sha256": state_sha256(net) if self.toy else self._sha256,
            "dtype": str(dtype).removeprefix("torch."),
            "toy": self.toy,
            **more,
        }

    @cached_property  # takes seconds for DINOv2-G's 4.5 GB
    def _sha256(self) -> str:
        digests = [sha256_of(path) for path in self.files]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256("".join(digests).encode()).hexdigest()


class FrozenNetwork:
    """A network in evaluation mode, without gradients, and its origin."""

    net: torch.nn.Module
    origin: Origin

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.net.parameters()).dtype

    def to(self, device: str | torch.device) -> None:
        """Move the network to ``device``."""
        self.net.to(device)


def state_sha256(net: torch.nn.Module) -> str:
    """sha256 of the names, shapes, types and values of a network's state."""
    state = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    return hashlib.sha256(to_bytes(state)).hexdigest()


def is_hub_id(source: str | Path) -> bool:
    """Whether ``source`` has the form of a hub id. A ``Path`` always names a folder."""
    return not isinstance(source, Path) and HUB_ID.fullmatch(source) is not None


def fetch(
    hub_id: str, patterns: Sequence[str], *, what: str, hint: str, revision: str | None = None
) -> Path:
    """The local folder with the files of a hub repository, downloaded or from the cache.

    Raises NotFetchedError with ``hint``; ``what`` names the repository in its message.
    """
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(patterns)))
    except Exception as err:  # offline, no such repository, no permission: a dozen types
        at = f" at revision {revision}" if revision else ""
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else reason(err)
        raise NotFetchedError(f"{what}{at}", why, hint) from None


def find(source: str | Path, *, what: str, stem: str, revision: str | None, hint: str) -> Origin:
    """Locate one network: an existing local folder, or a hub id (downloaded, or from the cache).

    ``what`` names it in errors ("VAE"), ``stem`` is the weight file's name without suffix
    (``diffusion_pytorch_model``, ``model``), ``hint`` ends every error ("give it as ..."). Raises
    XmdptError if it is not found or incomplete, with what to fetch.
    """
    path = expanded(source)
    if path.is_dir():
        return _in_folder(path, what, stem, hint)
    if not is_hub_id(source):
        raise XmdptError(f"no such {what} folder: {source}", hint)
    name = str(source)
    hint = f"with internet access: `hf download {name} --local-dir DIR`; then {hint}"
    patterns = ["config.json", f"{stem}*.safetensors*"]
    folder = fetch(name, patterns, what=f"{what} {name}", hint=hint, revision=revision)
    origin = _in_folder(folder, what, stem, hint)
    return Origin("hub", name, revision=folder.name, files=origin.files)


def reason(err: Exception) -> str:
    """The first sentence of another library's error."""
    lines = str(err).strip().splitlines()
    first = lines[0].split(". ")[0].rstrip(".") if lines else type(err).__name__
    return first.removeprefix("Got: ")  # as huggingface_hub starts errors of the connection


def _in_folder(path: Path, what: str, stem: str, hint: str) -> Origin:
    if not (path / "config.json").is_file():
        raise XmdptError(f"not a {what} folder: {path} has no config.json", hint)
    files = sorted(path.glob(f"{stem}*.safetensors"))
    missing = missing_shards(path, stem)
    if missing or not files:
        lacks = f"{stem}.safetensors" if not missing else ", ".join(missing[:3])
        raise XmdptError(
            f"not a {what} folder: {path} has no {lacks}{unfinished(path)}",
            f"copy it again, or {hint}" if missing else hint,
        )
    for file in files:
        check_whole(file)
    mark = path / TOY_MARK
    if mark.is_file():
        return Origin("toy", records.read(_Mark, mark, hint)["id"], files=files)
    return Origin("local", str(path), files=files)


def load_net(
    cls: Any, origin: Origin, *, what: str, key: str, value: str, dtype: torch.dtype
) -> torch.nn.Module:
    """``cls.from_pretrained`` of a found folder, in evaluation mode, without gradients.

    config.json must have ``value`` under ``key`` (``_class_name``: ``AutoencoderKL``). Raises
    XmdptError for another kind of network, broken files and missing tensors, which the libraries
    would initialise randomly.
    """
    folder = origin.files[0].parent
    try:
        config = records.read(dict[str, Any], folder / "config.json", _AGAIN)
        if config.get(key) != value:
            tiny = config.get(key) == "AutoencoderTiny"
            raise XmdptError(
                f"not a {what}: {folder}/config.json has {key} = {config.get(key)!r}, "
                f"expected {value!r}",
                "a tiny decoder only decodes; this needs the VAE's encoder" if tiny else "",
            )
        # transformers renamed this argument between releases: there the type is set afterwards
        of_diffusers = value.startswith("Autoencoder")
        typed = {"torch_dtype": dtype} if of_diffusers else {}
        net, info = cls.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **typed
        )
    except XmdptError:
        raise
    except Exception as err:  # the libraries raise a dozen types for a broken file
        raise XmdptError(f"broken {what}: {folder} ({reason(err)})", _AGAIN) from None
    missing = sorted(info["missing_keys"])
    if missing:
        raise XmdptError(
            f"incomplete {what}: {folder} lacks {len(missing)} tensors, first {missing[0]}", _AGAIN
        )
    made: torch.nn.Module = net.eval().requires_grad_(False)
    return made if of_diffusers else made.to(dtype)


def save_folder(
    folder: str | Path, write: Callable[[Path], None], origin: Origin | None = None
) -> None:
    """Replace ``folder`` atomically by what ``write(part)`` writes; a toy is marked as one."""
    with atomic_write(Path(folder)) as part:
        part.mkdir(parents=True)
        write(part)
        if origin is not None:
            mark_toy(part, origin)


def mark_toy(folder: Path, origin: Origin) -> None:
    """Write ``TOY_MARK`` into ``folder`` if the network of this origin is a toy."""
    if origin.toy:
        mark = {"toy": True, "id": origin.id}
        (folder / TOY_MARK).write_text(json.dumps(mark) + "\n", encoding="utf-8")
