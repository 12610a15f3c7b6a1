"""One generation as a stream of events: the pipeline works in a thread, the page shows progress."""

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

PREVIEWS = 6  # previews of a generation: each costs a run of the VAE's decoder
WAIT = 0.5  # seconds between checks that the generation is still wanted


@dataclass(frozen=True)
class Event:
    """The progress of a generation. ``preview`` at some steps, ``images`` with the last event."""

    step: int
    steps: int
    seconds: float
    preview: Image.Image | None = None
    images: list[Image.Image] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class StoppedError(Exception):
    """The generation was stopped."""


def preview_steps(steps: int) -> set[int]:
    """The steps, of 1 to ``steps``, whose preview is shown: at most PREVIEWS, never the last."""
    return {round(steps * i / (PREVIEWS + 1)) for i in range(1, PREVIEWS + 1)} - {0, steps}


def generate(
    pipe: XMDPTPipeline,
    turn: threading.Lock,
    stop: threading.Event,
    source: list[Path],
    pose: Keypoints,
    **settings: Any,
) -> Iterator[Event]:
    """Events of one generation, the last one with the images.

    ``stop`` ends it, with its step, by StoppedError; so does closing the iterator, in silence.
    ``turn`` is held while the model works: the next generation waits for that step. What the
    pipeline raises is raised here.
    """
    events: queue.Queue[Event | BaseException] = queue.Queue()
    began = time.monotonic()

    def after(step: int, steps: int, preview: Callable[[], Image.Image]) -> None:
        if stop.is_set():
            raise StoppedError
        shown = preview() if step in preview_steps(steps) else None
        events.put(Event(step, steps, time.monotonic() - began, shown))

    def work() -> None:
        try:
            with turn:
                images = pipe(source, pose, callback=after, **settings)
                notes = list(pipe.last_notes)
        except BaseException as err:
            events.put(err)
            return
        steps = settings.get("steps") or pipe.sampling_config().steps
        events.put(Event(steps, steps, time.monotonic() - began, None, images, notes))

    # a daemon: Ctrl-C need not wait for an image
    worker = threading.Thread(target=work, name="generate", daemon=True)
    worker.start()
    try:
        while True:
            event = _next(events, worker)
            if isinstance(event, BaseException):
                raise event
            yield event
            if event.images:
                return
    finally:
        stop.set()


def _next(events: queue.Queue[Event | BaseException], worker: threading.Thread) -> Any:
    while True:
        try:
            return events.get(timeout=WAIT)
        except queue.Empty:
            if not worker.is_alive() and events.empty():
                raise RuntimeError("the generation ended without an image") from None
