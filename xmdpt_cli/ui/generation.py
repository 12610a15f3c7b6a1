"""One generation as a stream of events: the pipeline runs in a thread, the page shows progress."""

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

PREVIEWS = 6  # kept previews of a generation; without a tiny decoder also the only ones
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
    """The steps (1 to ``steps``) whose preview is kept: at most PREVIEWS, never the last one."""
    return {round(steps * i / (PREVIEWS + 1)) for i in range(1, PREVIEWS + 1)} - {0, steps}


def generate(
    pipe: XMDPTPipeline,
    model_lock: threading.Lock,
    stop: threading.Event,
    source: list[Path],
    pose: Keypoints,
    **settings: Any,
) -> Iterator[Event]:
    """Yield the events of one generation, the last one with the images.

    With a tiny decoder there is a preview of every step but the last, else at ``preview_steps``.
    Setting ``stop`` ends it after the current step with StoppedError; closing the iterator ends it
    silently. ``model_lock`` is held while the pipeline runs. Exceptions of the pipeline are raised
    here.
    """
    events: queue.Queue[Event | BaseException] = queue.Queue()
    start = time.monotonic()

    def on_step(step: int, steps: int, preview: Callable[[], Image.Image]) -> None:
        if stop.is_set():
            raise StoppedError
        live = step < steps and pipe.encoders.tiny is not None
        shown = preview() if live or step in preview_steps(steps) else None
        events.put(Event(step, steps, time.monotonic() - start, shown))

    def run() -> None:
        try:
            with model_lock:
                images = pipe(source, pose, callback=on_step, **settings)
                notes = list(pipe.last_notes)
        except BaseException as err:
            events.put(err)
            return
        steps = settings.get("steps") or pipe.sampling_config().steps
        events.put(Event(steps, steps, time.monotonic() - start, None, images, notes))

    # a daemon, so that Ctrl-C does not wait for the image
    worker = threading.Thread(target=run, name="generate", daemon=True)
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
