"""Error messages and notes of the pipeline, reworded for the page.

The pipeline names options of the command line and files of the server, which a user of the page
does not have. Every error gets a hint that can be followed on the page; where there is none, the
page refers to the terminal that runs it, and the original message goes to the log.
"""

from __future__ import annotations

import logging
import re
import tempfile
from dataclasses import dataclass
from typing import Literal

from xmdpt_cli.errors import XmdptError

Part = Literal["person", "pose"]  # the part of the page that an error concerns

PLACE = "drag the joints onto the person, under Keypoints of the person"
PLACE_ALL = (
    "drag the others onto the person too, or a limb to move the whole figure, under Keypoints of "
    "the person; Reset takes the joints back"
)
DRAG = "drag the skeleton into the pose, or load a keypoints file"
OPERATOR = "the terminal that runs the page shows how to fix it"
ON_THE_SERVER = "the page lacks a network or a file that it needs"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Rule:
    """An error whose message matches the regular expression ``matches``.

    ``person`` and ``pose`` are its hints in the two parts of the page; ``message`` replaces the
    matched text ("" keeps it).
    """

    matches: str
    message: str
    person: str
    pose: str


_RULES = (
    _Rule(
        "the keypoints of the person are not known.*",
        "there is no keypoint estimator here to find the person",
        PLACE,
        DRAG,
    ),
    _Rule(
        "this model reads the keypoints of the source.*",
        "this model needs the keypoints of the person, and they are not known",
        PLACE,
        DRAG,
    ),
    _Rule(
        "OpenPose finds no person",
        "",
        f"take an image in which a person is seen upright, or {PLACE}",
        f"take an image in which a person is seen upright, or {DRAG}",
    ),
    _Rule(
        "person \\d+ requested, (\\d+) found",
        "",
        r"set Person, by size, in Settings to 1 to \1",
        "load a file with that person alone",
    ),
    _Rule(
        "the fit person needs the place of the person",
        "",
        f"{PLACE}, or choose another Fit in Settings",
        "",
    ),
    _Rule(
        "the model is for images of the shape",
        "",
        f"{PLACE}, then the person is cut out; or choose Fit in Settings: pad adds borders, "
        "squash distorts",
        "load keypoints of an image of that shape, or drag the skeleton",
    ),
    _Rule("joints lie outside of the image", "", PLACE, DRAG),
    _Rule("nothing of the .* image would be seen", "", PLACE, DRAG),
    _Rule(
        "the size of their image is not known",
        "",
        'write "width" and "height" of the image into the file, or place the joints by hand',
        'drop the image of the person first, whose size is then taken, or write "width" and '
        '"height" of the image into the file, or drag the skeleton',
    ),
    _Rule(
        "joints lie outside of an image of",
        "",
        "load keypoints of this image, or place the joints by hand",
        'write "width" and "height" of their image into the file, or drag the skeleton',
    ),
    _Rule(
        "out of memory|more than [\\d.]+ .?i?B",
        "",
        "end other programs on the machine that runs the page, or open the page with a smaller "
        "model",
        "end other programs on the machine that runs the page",
    ),
    _Rule("^power must be", "guidance power must be", "set it in Settings", ""),
    _Rule("^num_images", "images", "set it in Settings", ""),
)
_COMMAND = re.compile(r"(?<!\w)--\w|\bxmdpt |\bhf download|\bpip install|\bDIR\b")
_FOLDERS = re.compile(r"(?<![\w.<:/])(?:/[^/\s:'\"]+)*/(?=[^/\s])|\b[A-Za-z]:\\(?:[^\\\s]+\\)*")
_OPTION = re.compile(r"\s*\((?:else )?--[^)]*\)")
_CHOOSES = " (--person chooses)"


def page_words(err: XmdptError, part: Part = "person") -> tuple[str, str]:
    """Return (message, hint) without options, commands or folders."""
    for rule in _RULES:
        match = re.search(rule.matches, err.message, re.DOTALL)
        if match:
            message = err.message
            if rule.message:
                message = message[: match.start()] + rule.message + message[match.end() :]
            return without_folders(message), match.expand(getattr(rule, part))
    message, hint = err.message, err.hint
    if _COMMAND.search(message):
        message = ON_THE_SERVER
    if message is ON_THE_SERVER or _COMMAND.search(hint):
        log.warning("%s (%s)", err.message, err.hint)
        hint = OPERATOR
    return without_folders(message), without_folders(hint)


def page_note(note: str) -> str:
    """Reword a note of the pipeline on how it changed the inputs."""
    note = note.replace(_CHOOSES, " (Person, by size, chooses)")
    return without_folders(_OPTION.sub("", note))


def without_folders(text: str) -> str:
    """Reduce paths to file names, and remove backquotes."""
    text = text.replace(tempfile.gettempdir(), "").replace("`", "")
    return _FOLDERS.sub("", text)
