"""What the page says: small pieces of HTML, with everything escaped that is not ours."""

from __future__ import annotations

import base64
import html
import io
import logging

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.ui.drawing import Event

THUMB = 192  # pixels of a preview's longer side in the row of steps, shown at half of it
TOY = "TOY model: made with toy networks. It says nothing about results on photographs."

log = logging.getLogger(__name__)


def header(title: str, resolution: int, toy: bool) -> str:
    """Which model this is, and whether it is a toy."""
    warning = f'<p class="toy" role="note">{TOY}</p>' if toy else ""
    what = f"{html.escape(title)}, {resolution} px"
    return f"<header><h1>xmdpt</h1><p>{what}</p></header>{warning}"


def failed(err: Exception) -> str:
    """A readable message for the page; what is no user's doing goes to the log as well."""
    if isinstance(err, XmdptError):
        return note(err.message[:1].upper() + err.message[1:], err.hint, "error")
    log.exception("while drawing", exc_info=err)
    said = f"{type(err).__name__}: {err}"
    return note("A bug of ours, or no memory left", f"{said}; the server's log says more", "error")


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
    what = "1 picture" if number == 1 else f"{number} pictures"
    notes = [f"{event.steps} steps", f"seed {seed}", *event.notes]
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
