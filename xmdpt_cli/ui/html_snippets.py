"""What the page says: small pieces of HTML, with everything escaped that is not ours."""

from __future__ import annotations

import base64
import html
import io
import logging
import re
from collections.abc import Iterable

from xmdpt_cli.errors import XmdptError, is_out_of_memory
from xmdpt_cli.ui.generation import Event
from xmdpt_cli.ui.wording import Part, page_note, page_words, without_folders

LONG, ENDING = 32, 12  # characters of a file's name that are shown, and of these its end
THUMB = 192  # pixels of a preview's longer side in the row of steps, shown at half of it
TOY = "TOY model: made with toy networks. It says nothing about results on photographs."

log = logging.getLogger(__name__)


def header(title: str, resolution: int, toy: bool) -> str:
    """Which model this is, and whether it is a toy."""
    warning = f'<p class="toy" role="note">{TOY}</p>' if toy else ""
    what = f"{html.escape(title)}, {resolution} px"
    return f"<header><h1>xmdpt</h1><p>{what}</p></header>{warning}"


def failed(err: Exception, part: Part = "person", names: Iterable[str] = ()) -> str:
    """A readable message for the page; what is no user's doing goes to the log as well.

    ``part`` of the page: what the error is about. ``names`` of files: see ``note``.
    """
    if isinstance(err, XmdptError):
        message, hint = page_words(err, part)
        return note(_sentence(message), _sentence(hint), "error", names)
    log.exception("while generating", exc_info=err)
    if is_out_of_memory(err):
        return note("Out of memory", "generate fewer images, or end other programs", "error")
    said = without_folders(f"{type(err).__name__}: {err}")
    return note("A bug of ours", f"{said}; the terminal of the page says more", "error")


_FILE = re.compile(r".*\.\w{2,5}(, [^:]*)?: ")


def _sentence(text: str) -> str:
    """With a capital letter, except where a file's name comes first."""
    return text if _FILE.match(text) else text[:1].upper() + text[1:]


def note(text: str, hint: str = "", kind: str = "note", names: Iterable[str] = ()) -> str:
    """``kind``: note or error. ``names``: file names to shorten where they are long."""
    names = list(names)
    more = f"<span>{_escaped(hint, names)}</span>" if hint else ""
    role = "alert" if kind == "error" else "status"
    return f'<div class="{kind}" role="{role}"><b>{_escaped(text, names)}</b>{more}</div>'


def _escaped(text: str, names: Iterable[str]) -> str:
    text = html.escape(text)
    for name in dict.fromkeys(names):
        if short(name) != name:
            whole = html.escape(name)
            shown = f'<abbr title="{whole}">{html.escape(short(name))}</abbr>'
            text = shown.join(text.split(whole))
    return text


def short(name: str) -> str:
    """A file's name with an ellipsis in its middle, where it is long; its suffix stays."""
    return name if len(name) <= LONG else f"{name[: LONG - ENDING - 1]}\u2026{name[-ENDING:]}"


def progress(event: Event) -> str:
    """The step, a bar, and the time left."""
    left = event.seconds / event.step * (event.steps - event.step)
    time = f", {left:.0f} s left" if event.step < event.steps and event.seconds > 1 else ""
    return (
        f'<div class="note" role="status"><b>Step {event.step} of {event.steps}{time}</b>'
        f'<progress value="{event.step}" max="{event.steps}"></progress></div>'
    )


def finished(event: Event, seed: int, names: Iterable[str] = ()) -> str:
    """How long it took, and what was done to the inputs. ``names`` of files: see ``note``."""
    number = len(event.images)
    what = "1 image" if number == 1 else f"{number} images"
    notes = [f"{event.steps} steps", f"seed {seed}", *map(page_note, event.notes)]
    return note(f"{what} in {event.seconds:.1f} s", ", ".join(notes), names=names)


def film(frames: Iterable[str]) -> str:
    """The row of steps, with a label."""
    return f'<p class="caption">Preview after step</p><div class="film">{"".join(frames)}</div>'


def frame(event: Event) -> str:
    """One image of the row of steps."""
    assert event.preview is not None
    small = event.preview.convert("RGB")
    small.thumbnail((THUMB, THUMB))
    stream = io.BytesIO()
    small.save(stream, format="JPEG", quality=85)
    data = base64.b64encode(stream.getvalue()).decode()
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" alt="step {event.step}">'
        f"<figcaption>{event.step}</figcaption></figure>"
    )
