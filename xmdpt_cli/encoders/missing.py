"""All pretrained networks that are not here, named in one error instead of one a run."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from xmdpt_cli.encoders.identity import FOLDERS
from xmdpt_cli.encoders.weights import HUB_ID, NotFetchedError
from xmdpt_cli.errors import ConfigError, XmdptError


@dataclass(frozen=True)
class Needed:
    """A network that some work needs. ``find`` raises XmdptError where it is neither on this
    machine nor to be fetched; it reads no weights."""

    what: str  # what errors call it: "DINOv2 of the source"
    option: str  # that names its folder: "--dino-source"
    folder: str  # where the hint puts it: "dino_source"
    find: Callable[[], object]
    hub_id: str = ""  # what to fetch; "" if it is on no hub
    file: str = ""  # the one file of it that is needed; "": all
    why: str = ""  # it is needed: "for person.jpg"
    without: str = ""  # what can be done without it: "give keypoints (--pose FILE)"
    alone: XmdptError | None = None  # the error where nothing else is missing; None: that of find


def find_all(needed: Sequence[Needed], more: str = "") -> None:
    """XmdptError unless all are found, naming each that is not, with how to get it.

    ``more``: another way out, added to the hint. Of a single one the error is its own.
    """
    failed: list[tuple[Needed, XmdptError]] = []
    for one in needed:
        try:
            one.find()
        except XmdptError as error:
            failed.append((one, error))
    if not failed:
        return
    if len(failed) == 1:
        one, err = failed[0]
        err = one.alone or err
        message = err.message if not one.why or one.alone else f"{err.message}; needed {one.why}"
        without = "" if one.without in err.hint else f"without it: {one.without}"
        added = [part for part in (without, more) if part]
        if not added:
            raise err
        raise XmdptError(message, "\n".join([err.hint, *added]))
    raise XmdptError(_message(failed), _hint(failed, more))


def _message(failed: Sequence[tuple[Needed, XmdptError]]) -> str:
    lines = [f"{len(failed)} networks are needed and not found:"]
    for one, err in failed:
        fetched = isinstance(err, NotFetchedError)
        why = f" ({one.why})" if one.why else ""
        lines.append(f"  {one.what}{why}: {one.hub_id if fetched else err.message}")
    reasons = dict.fromkeys(err.why for _, err in failed if isinstance(err, NotFetchedError))
    which = (
        "those of the hub" if any(not isinstance(e, NotFetchedError) for _, e in failed) else "they"
    )
    lines += [f"{which} are not on this machine and cannot be fetched: {why}" for why in reasons]
    return "\n".join(lines)


def _hint(failed: Sequence[tuple[Needed, XmdptError]], more: str) -> str:
    fetched = [one for one, _ in failed if HUB_ID.fullmatch(one.hub_id)]
    lines = []
    if fetched:
        lines.append("on a machine with internet access:")
        for one in fetched:
            file = f" {one.file}" if one.file else ""
            lines.append(f"  hf download {one.hub_id}{file} --local-dir {one.folder}")
        options = " ".join(f"{one.option} {one.folder}" for one in fetched)
        lines.append(f"then add: {options}")
    # networks on no hub, such as toys, have hints of their own
    lines += [f"{one.what}: {err.hint}" for one, err in failed if one not in fetched and err.hint]
    lines += [f"without {one.what}: {one.without}" for one, _ in failed if one.without]
    return "\n".join([*lines, more] if more else lines)


def check_encoders(folder: Path, named: Container[str] = ()) -> None:
    """ConfigError unless ``folder`` holds the encoders, except those that are ``named`` apart."""
    wanted = [f"{name}/" for name in FOLDERS if name not in named]
    missing = [name for name in wanted if not (folder / name).is_dir()]
    if missing:
        what = f"has no {', '.join(missing)}" if folder.is_dir() else "is not a folder"
        raise ConfigError(
            f"--encoders: {folder} {what}",
            f"name a folder with {', '.join(wanted)}, such as DATA/encoders of a prepared dataset; "
            "or leave the option out",
        )
