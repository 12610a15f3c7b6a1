"""All pretrained networks that are not found, named in one error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xmdpt_cli.encoders.weights import HUB_ID, NotFetchedError
from xmdpt_cli.errors import XmdptError


@dataclass(frozen=True)
class Needed:
    """A network that a command needs. ``find`` raises XmdptError if it is neither on this machine
    nor can be fetched; it reads no weights."""

    what: str  # its name in errors: "DINOv2 of the source"
    option: str  # that names its folder: "--dino-source"
    folder: str  # the folder in the hint: "dino_source"
    find: Callable[[], object]
    hub_id: str = ""  # what to fetch; "" if it is not on the hub
    file: str = ""  # the only file of the repository that is needed; "": all
    why: str = ""  # it is needed: "for person.jpg"
    without: str = ""  # what can be done without it: "give keypoints (--pose FILE)"
    alone: XmdptError | None = None  # the error if nothing else is missing; None: that of ``find``


def find_all(needed: Sequence[Needed], alternative: str = "") -> None:
    """XmdptError naming every network that is not found, and how to get it.

    ``alternative``: another solution, added to the hint. A single missing network raises its own
    error.
    """
    failed: list[tuple[Needed, XmdptError]] = []
    for network in needed:
        try:
            network.find()
        except XmdptError as err:
            failed.append((network, err))
    if len(failed) > 1:
        raise XmdptError(_message(failed), _hint(failed, alternative))
    for network, found in failed:
        error = network.alone or found
        why = "" if network.alone or not network.why else f"; needed {network.why}"
        without = "" if network.without in error.hint else f"without it: {network.without}"
        added = [line for line in (without, alternative) if line]
        if not why and not added:
            raise error
        raise XmdptError(f"{error.message}{why}", "\n".join([error.hint, *added]))


def _message(failed: Sequence[tuple[Needed, XmdptError]]) -> str:
    lines = [f"{len(failed)} networks are needed and not found:"]
    reasons = dict.fromkeys(err.why for _, err in failed if isinstance(err, NotFetchedError))
    all_of_hub = True
    for network, err in failed:
        of_hub = isinstance(err, NotFetchedError)
        all_of_hub = all_of_hub and of_hub
        why = f" ({network.why})" if network.why else ""
        lines.append(f"  {network.what}{why}: {network.hub_id if of_hub else err.message}")
    which = "they" if all_of_hub else "those of the hub"
    lines += [f"{which} are not on this machine and cannot be fetched: {why}" for why in reasons]
    return "\n".join(lines)


def _hint(failed: Sequence[tuple[Needed, XmdptError]], alternative: str) -> str:
    of_hub = [network for network, _ in failed if HUB_ID.fullmatch(network.hub_id)]
    lines = []
    if of_hub:
        lines.append("on a machine with internet access:")
        for network in of_hub:
            file = f" {network.file}" if network.file else ""
            lines.append(f"  hf download {network.hub_id}{file} --local-dir {network.folder}")
        options = " ".join(f"{network.option} {network.folder}" for network in of_hub)
        lines.append(f"then add: {options}")
    # networks that are not on the hub, such as toys, have hints of their own
    lines += [f"{n.what}: {err.hint}" for n, err in failed if n not in of_hub and err.hint]
    lines += [f"without {n.what}: {n.without}" for n, _ in failed if n.without]
    return "\n".join([*lines, alternative] if alternative else lines)
