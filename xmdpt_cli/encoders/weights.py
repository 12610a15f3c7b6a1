"""Where the weights of a frozen network come from: hub, local folder, or toy; and which exactly.

A prepared data set names its encoders by what ``Origin.describe`` says here, so that features
of different networks are never mixed unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import save as to_bytes
from typing_extensions import TypedDict

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import atomic_write, expanded, sha256_of
from xmdpt_cli.utils import records
from xmdpt_cli.utils.weights_files import check_whole, missing_shards, unfinished

# In a folder beside config.json: these weights were made to try things out, not trained on photos.
TOY_MARK = "xmdpt_toy.json"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class NotFetchedError(XmdptError):
    """A network of the hub that is not on this machine and cannot be fetched; ``why`` not."""

    why = ""


def not_fetched(what: str, err: Exception, hint: str) -> NotFetchedError:
    """``what``: the network and its hub id; ``err``: the hub library's error."""
    failed = NotFetchedError(
        f"{what} is not on this machine and cannot be fetched ({reason(err)})", hint
    )
    failed.why = reason(err)
    return failed


class _Mark(TypedDict):
    """``TOY_MARK``."""

    id: str


@dataclass
class Origin:
    """Where a network was loaded from. ``kind`` is ``hub``, ``local`` or ``toy``.

    ``id`` is the hub id, the folder, or the toy's name; ``revision`` the hub commit; ``files``
    the weight files in order (none for a toy that is only in memory).
    """

    kind: str
    id: str
    revision: str | None = None
    files: list[Path] = field(default_factory=list)
    _sha256: str | None = None

    @property
    def toy(self) -> bool:
        return self.kind == "toy"

    def describe(self, net: torch.nn.Module, **more: Any) -> dict[str, Any]:
        """JSON-ready: kind, id, revision, sha256, dtype, toy, and what the network adds.

        The sha256 is that of the weight file. Toys are small and trained in place: theirs is of
        the weights in memory, the same before saving and after loading.
        """
        dtype = next(net.parameters()).dtype
        return {
            "kind": self.kind,
            "id": self.id,
            "revision": self.revision,
            "sha256": state_sha256(net) if self.toy else self._file_sha256(),
            "dtype": str(dtype).removeprefix("torch."),
            "toy": self.toy,
            **more,
        }

    def _file_sha256(self) -> str:
        if self._sha256 is None:  # seconds for DINOv2-G's 4.5 GB: once
            digests = [sha256_of(path) for path in self.files]
            joined = "".join(digests).encode()
            self._sha256 = digests[0] if len(digests) == 1 else hashlib.sha256(joined).hexdigest()
        return self._sha256


def state_sha256(net: torch.nn.Module) -> str:
    """sha256 over names, shapes, types and values of a network's state."""
    state = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    return hashlib.sha256(to_bytes(state)).hexdigest()


def find(source: str | Path, *, what: str, stem: str, revision: str | None, hint: str) -> Origin:
    """Locate one network: an existing local folder, or a hub id (fetched, or from the cache).

    ``what`` names it in errors ("VAE"), ``stem`` is the weight file's name without suffix
    (``diffusion_pytorch_model``, ``model``), ``hint`` ends every error ("give it as ...").
    Raises XmdptError where nothing is found or fetched, saying what to fetch.
    """
    path = expanded(source)
    if path.is_dir():
        return _in_folder(path, what, stem, hint)
    if not HUB_ID.fullmatch(str(source)) or isinstance(source, Path):
        raise XmdptError(f"no such {what} folder: {source}", hint)
    name = str(source)
    fetch = f"where there is a network: `hf download {name} --local-dir DIR`; then {hint}"
    try:
        patterns = ["config.json", f"{stem}*.safetensors*"]
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as err:  # offline, no such repository, no right to it, a dozen types more
        at = f" at revision {revision}" if revision else ""
        raise not_fetched(f"{what} {name}{at}", err, fetch) from None
    origin = _in_folder(folder, what, stem, fetch)
    return Origin("hub", name, revision=folder.name, files=origin.files)


def reason(err: Exception) -> str:
    """The first sentence of another library's error, for ours."""
    lines = str(err).strip().splitlines()
    return lines[0].split(". ")[0].rstrip(".") if lines else type(err).__name__


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

    ``key`` and ``value`` is what config.json must say (``_class_name``: ``AutoencoderKL``).
    Raises XmdptError for another kind of network, broken files and missing tensors, which the
    libraries would fill with random numbers.
    """
    folder = origin.files[0].parent
    try:
        config = records.read(dict[str, Any], folder / "config.json", "fetch or copy it again")
        if config.get(key) != value:
            raise XmdptError(
                f"not a {what}: {folder}/config.json says {key} = {config.get(key)!r}, "
                f"expected {value!r}"
            )
        # the releases of transformers spell this argument differently: there it is set afterwards
        typed = {"torch_dtype": dtype} if value == "AutoencoderKL" else {}
        net, info = cls.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **typed
        )
    except XmdptError:
        raise
    except Exception as err:  # the libraries raise a dozen types for a broken file
        raise XmdptError(
            f"broken {what}: {folder} ({reason(err)})", "fetch or copy it again"
        ) from None
    missing = sorted(info["missing_keys"])
    if missing:
        raise XmdptError(
            f"incomplete {what}: {folder} lacks {len(missing)} tensors, first {missing[0]}",
            "fetch or copy it again",
        )
    made: torch.nn.Module = net.eval().requires_grad_(False)
    return made if value == "AutoencoderKL" else made.to(dtype)


def save_folder(
    folder: str | Path, write: Callable[[Path], None], *, toy_id: str | None = None
) -> None:
    """``write(part)`` into a temporary folder, mark it if it is a toy, rename it to ``folder``.

    A folder that was there is replaced.
    """
    with atomic_write(Path(folder)) as part:
        part.mkdir(parents=True)
        write(part)
        if toy_id is not None:
            mark = {"toy": True, "id": toy_id}
            (part / TOY_MARK).write_text(json.dumps(mark) + "\n", encoding="utf-8")
