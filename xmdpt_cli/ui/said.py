"""What the page says: small pieces of HTML, with everything escaped that is not ours."""

from __future__ import annotations

import base64
import html
import io
import logging
import re

from xmdpt_cli.errors import XmdptError, is_out_of_memory
from xmdpt_cli.ui.drawing import Event
from xmdpt_cli.ui.wording import Part, page_note, page_words, without_folders

THUMB = 192  # pixels of a preview's longer side in the row of steps, shown at half of it
TOY = "TOY model: made with toy networks. It says nothing about results on photographs."

log = logging.getLogger(__name__)


def header(title: str, resolution: int, toy: bool) -> str:
    """Which model this is, and whether it is a toy."""
    warning = f'<p class="toy" role="note">{TOY}</p>' if toy else ""
    what = f"{html.escape(title)}, {resolution} px"
    return f"<header><h1>xmdpt</h1><p>{what}</p></header>{warning}"


def failed(err: Exception, part: Part = "person") -> str:
    """A readable message for the page; what is no user's doing goes to the log as well.

    ``part`` of the page: what the error is about.
    """
    if isinstance(err, XmdptError):
        message, hint = page_words(err, part)
        return note(_sentence(message), _sentence(hint), "error")
    log.exception("while generating", exc_info=err)
    if is_out_of_memory(err):
        return note("Out of memory", "generate fewer images, or end other programs", "error")
    said = without_folders(f"{type(err).__name__}: {err}")
    return note("A bug of ours", f"{said}; the terminal of the page says more", "error")


_FILE = re.compile(r".*\.\w{2,5}(, [^:]*)?: ")


def _sentence(text: str) -> str:
    """With a capital letter, except where a file's name comes first."""
    return text if _FILE.match(text) else text[:1].upper() + text[1:]


def note(text: str, hint: str = "", kind: str = "note") -> str:
    """``kind``: note or error."""
    more = f"<span>{html.escape(hint)}</span>" if hint else ""
    role = "alert" if kind == "error" else "status"
    return f'<div class="{kind}" role="{role}"><b>{html.escape(text)}</b>{more}</div>'


def progress(event: Event) -> str:
    """The step, a bar, and the time left."""
    left = event.seconds / event.step * (event.steps - event.step)
    time = f", {left:.0f} s left" if event.step < event.steps and event.seconds > 1 else ""
    return (
        f'<div class="note" role="status"><b>Step {event.step} of {event.steps}{time}</b>'
        f'<progress value="{event.step}" max="{event.steps}"></progress></div>'
    )


def finished(event: Event, seed: int) -> str:
    """How long it took, and what was done to the inputs."""
    number = len(event.pictures)
    what = "1 image" if number == 1 else f"{number} images"
    notes = [f"{event.steps} steps", f"seed {seed}", *map(page_note, event.notes)]
    return note(f"{what} in {event.seconds:.1f} s", ", ".join(notes))


def frame(event: Event) -> str:
    """One picture of the row of steps."""
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
