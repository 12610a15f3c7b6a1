"""One drawing as a stream of events: the pipeline works in a thread, the page looks on."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from xmdpt_cli.pose.keypoints import Keypoints

if TYPE_CHECKING:
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline

LOOKS = 6  # previews of a drawing: each costs a run of the VAE's decoder
WAIT = 0.5  # seconds between looks at whether anybody still wants the picture


@dataclass(frozen=True)
class Event:
    """Where a drawing is. ``preview`` only now and then, ``pictures`` with the last event."""

    step: int
    steps: int
    seconds: float
    preview: Image.Image | None = None
    pictures: list[Image.Image] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class StoppedError(Exception):
    """Nobody wants the picture any more."""


def looks(steps: int) -> set[int]:
    """The steps, of 1 to ``steps``, whose preview is shown: at most LOOKS, never the last."""
    return {round(steps * i / (LOOKS + 1)) for i in range(1, LOOKS + 1)} - {0, steps}


def draw(
    pipe: XMDPTPipeline,
    turn: threading.Lock,
    stop: threading.Event,
    source: list[Path],
    pose: Keypoints,
    **settings: Any,
) -> Iterator[Event]:
    """Events of one drawing, the last one with the pictures.

    ``stop`` ends it, with its step, by StoppedError; so does closing the iterator, in silence.
    ``turn`` is held while the model works: the next drawing waits for such a step. What the
    pipeline raises is raised here.
    """
    events: queue.Queue[Event | BaseException] = queue.Queue()
    began = time.monotonic()

    def after(step: int, steps: int, preview: Callable[[], Image.Image]) -> None:
        if stop.is_set():
            raise StoppedError
        shown = preview() if step in looks(steps) else None
        events.put(Event(step, steps, time.monotonic() - began, shown))

    def work() -> None:
        try:
            with turn:
                pictures = pipe(source, pose, callback=after, **settings)
                notes = list(pipe.last_notes)
        except BaseException as err:
            events.put(err)
            return
        steps = settings.get("steps") or pipe.sampling_config().steps
        events.put(Event(steps, steps, time.monotonic() - began, None, pictures, notes))

    # a daemon: Ctrl-C need not wait for a picture
    worker = threading.Thread(target=work, name="draw", daemon=True)
    worker.start()
    try:
        while True:
            event = _next(events, worker)
            if isinstance(event, BaseException):
                raise event
            yield event
            if event.pictures:
                return
    finally:
        stop.set()


def _next(events: queue.Queue[Event | BaseException], worker: threading.Thread) -> Any:
    while True:
        try:
            return events.get(timeout=WAIT)
        except queue.Empty:
            if not worker.is_alive() and events.empty():
                raise RuntimeError("the drawing ended without a picture") from None
