"""HTML snippets of the page. All text that is put in is escaped."""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Iterable

from xmdpt_cli.errors import XmdptError, is_out_of_memory
from xmdpt_cli.ui.generation import Event
from xmdpt_cli.ui.person_views import data_url
from xmdpt_cli.ui.wording import Part, page_note, page_words, without_folders
from xmdpt_cli.utils.counts import counted

LONG, ENDING = 32, 12  # characters of a shortened file name, and of its end
THUMB = 192  # pixels of the longer side of a preview, shown at half that size
TOY = "TOY model: made with toy networks. It says nothing about results on photographs."

log = logging.getLogger(__name__)


def header(title: str, resolution: int, toy: bool, student: str = "") -> str:
    """The header: the name of the model, and a warning if it is a toy. ``student``: what a
    distilled model can sample (``student_summary``)."""
    warning = f'<p class="toy" role="note">{TOY}</p>' if toy else ""
    summary = f"{html.escape(title)}, {resolution} px"
    summary += f", distilled: {student}" if student else ""
    return f"<header><h1>xmdpt</h1><p>{summary}</p></header>{warning}"


def failed(err: Exception, part: Part = "person", names: Iterable[str] = ()) -> str:
    """An error as a message of the page; unexpected errors are logged as well.

    ``part``: the part of the page that the error concerns. ``names``: file names, see ``note``.
    """
    if isinstance(err, XmdptError):
        message, hint = page_words(err, part)
        return note(_sentence(message), _sentence(hint), "error", names)
    log.exception("while generating", exc_info=err)
    if is_out_of_memory(err):
        return note("Out of memory", "generate fewer images, or end other programs", "error")
    text = without_folders(f"{type(err).__name__}: {err}")
    return note("Internal error", f"{text}; the terminal that runs the page shows more", "error")


_FILE = re.compile(r".*\.\w{2,5}(, [^:]*)?: ")


def _sentence(text: str) -> str:
    """Capitalize the text unless it starts with a file name."""
    return text if _FILE.match(text) else text[:1].upper() + text[1:]


def note(text: str, hint: str = "", kind: str = "note", names: Iterable[str] = ()) -> str:
    """A message with a hint. ``kind``: "note" or "error". ``names``: file names to shorten."""
    names = list(names)
    more = f"<span>{_escaped(hint, names)}</span>" if hint else ""
    role = "alert" if kind == "error" else "status"
    return f'<div class="{kind}" role="{role}"><b>{_escaped(text, names)}</b>{more}</div>'


def _escaped(text: str, names: Iterable[str]) -> str:
    text = html.escape(text)
    for name in dict.fromkeys(names):
        if short(name) != name:
            full = html.escape(name)
            shown = f'<abbr title="{full}">{html.escape(short(name))}</abbr>'
            text = shown.join(text.split(full))
    return text


def short(name: str) -> str:
    """A long file name with an ellipsis in the middle; the suffix is kept."""
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
    """Duration, settings, and changes to the inputs. ``names``: file names, see ``note``."""
    summary = counted(len(event.images), "image")
    notes = [counted(event.steps, "step"), f"seed {seed}", *map(page_note, event.notes)]
    return note(f"{summary} in {event.seconds:.1f} s", ", ".join(notes), names=names)


def film(frames: Iterable[str]) -> str:
    """The row of previews, with a caption."""
    return f'<p class="caption">Preview after step</p><div class="film">{"".join(frames)}</div>'


def frame(event: Event) -> str:
    """One preview of the row."""
    assert event.preview is not None
    return (
        f'<figure><img src="{data_url(event.preview, THUMB)}" alt="step {event.step}">'
        f"<figcaption>{event.step}</figcaption></figure>"
    )
