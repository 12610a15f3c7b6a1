"""Download the published weights of the metrics' networks, where torch hub keeps them.

An existing file is used as it is. A download is compared with the SHA-256 digits in its file
name and renamed when it is complete; one process downloads, others wait for it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import expanded, only_process
from xmdpt_cli.progress import Progress, silent

MIB = 1 << 20
TIMEOUT = 60.0  # seconds without a byte


@dataclass(frozen=True)
class Published:
    """One published file of weights, and the option that names a copy of it."""

    name: str
    use: str  # the metric it is for
    url: str
    option: str
    toys: tuple[str, ...] = ("toy",)  # values of ``option`` for random weights

    @property
    def path(self) -> Path:
        """Where torch hub stores the file."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.url.rsplit("/", 1)[1]

    @property
    def sha256(self) -> str:
        """The first digits of the file's SHA-256, with which torch hub's file names end."""
        return Path(self.url).stem.rsplit("-", 1)[1]


def download(networks: Sequence[Published], progress: Progress = silent) -> None:
    """Download the missing files; with HF_HUB_OFFLINE=1 nothing is downloaded.

    ``progress`` counts MiB, one stage a network. Raises one XmdptError that names every network
    that could not be downloaded, its URL, where to put it, and the options.
    """
    reasons: dict[Published, str] = {}
    for network in networks:
        if network.path.is_file():
            continue
        if is_offline():
            reasons[network] = "HF_HUB_OFFLINE is set"
            continue
        try:
            _download(network, progress)
        except Exception as err:  # urllib, ssl, http.client and torch raise a dozen types
            reasons[network] = _reason(err)
    if reasons:
        raise missing(reasons)


def choose(given: Mapping[Published, str | Path | None]) -> list[Published]:
    """Which published files are needed for these values of the options.

    A value is None (the published file), ``off``, a word for random weights, or a path; XmdptError
    names every path that is no file.
    """
    wrong, words = [], []
    for network, value in given.items():
        if not (value in (None, "off", *network.toys) or expanded(value or "").is_file()):
            wrong.append(f"no weights at {value} ({network.option})")
            words.append(f"{network.option} {'|'.join(('off', *network.toys))}")
    if wrong:
        raise XmdptError("\n".join(wrong), f"name a file of weights, or: {', '.join(words)}")
    return [network for network, value in given.items() if value is None]


def is_offline() -> bool:
    """Whether the user forbids downloads, by huggingface_hub's own rule."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def missing(reasons: dict[Published, str]) -> XmdptError:
    """The error for networks that are not on this machine, with the reason for each."""
    lines = [f"{n.name}, for {n.use}, is not on this machine: {why}" for n, why in reasons.items()]
    hints = ["unset HF_HUB_OFFLINE to download, or"] if is_offline() else []
    for network in reasons:
        hints += [
            f"fetch {network.url}",
            f"  to {network.path}, or name your copy with {network.option} PATH",
        ]
    off = " ".join(f"{n.option} off" for n in reasons)
    toys = " ".join(f"{n.option} {n.toys[-1]}" for n in reasons)
    hints.append(f"or do without: {off}")
    hints.append(f"or use random weights, whose values compare with nothing published: {toys}")
    return XmdptError("\n".join(lines), "\n".join(hints))


def _download(network: Published, progress: Progress) -> None:
    path = network.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise XmdptError(f"{path.parent}: {err.strerror}") from None
    with only_process(path.parent, f".{path.name}.lock", wait=True):
        if path.is_file():  # another process has just downloaded it
            return
        for part in path.parent.glob(f"{path.name}.*.partial"):  # of a killed process
            part.unlink(missing_ok=True)
        with _reported(network.name, progress):
            # writes to a .partial file, compares the SHA-256, renames
            torch.hub.download_url_to_file(network.url, str(path), network.sha256)


@contextmanager
def _reported(name: str, progress: Progress) -> Iterator[None]:
    """Inside, torch hub reports to ``progress`` instead of its own bar, and waits TIMEOUT at most.

    torch hub offers neither as an argument.
    """

    class Bar:
        """What torch hub calls of tqdm's interface."""

        def __init__(self, *_: Any, total: int | None = None, **__: Any) -> None:
            self.done, self.total = 0, total

        def update(self, count: int) -> None:
            self.done += count
            self._show(ended=False)

        def _show(self, ended: bool) -> None:
            done = self.done / MIB
            total = max(1, round(max(done, (self.total or 0) / MIB)))
            at = total if ended else min(int(done), total - 1)
            progress(f"download {name}", at, total, unit="MiB")

        def __enter__(self) -> Bar:
            self._show(ended=False)
            return self

        def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
        ) -> None:
            if kind is None:  # a server may not send the total size
                self._show(ended=self.total in (None, self.done))

    tqdm, timeout = torch.hub.tqdm, socket.getdefaulttimeout()
    torch.hub.tqdm = Bar
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        torch.hub.tqdm = tqdm
        socket.setdefaulttimeout(timeout)


def _reason(err: Exception) -> str:
    """The reason as one line."""
    if isinstance(err, XmdptError):
        return err.message
    if "invalid hash value" in str(err):
        return "the download is not the published file (cut off, or changed on the way)"
    inner = getattr(err, "reason", None)  # urllib wraps the original error
    cause = inner if isinstance(inner, Exception) else err
    if isinstance(cause, TimeoutError):
        return f"the download stopped: nothing came for {TIMEOUT:.0f} seconds"
    lines = str(cause).splitlines()
    return f"the download failed ({lines[0] if lines else type(cause).__name__})"
