"""Headless Chromium, and the actions of a user on the page."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from xmdpt_cli.pose.keypoints import JOINTS, Keypoints
from xmdpt_cli.ui.poses import SIDES

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
# without requests of the browser itself
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip


class Skeleton:
    """A skeleton editor: "#pose" or "#keypoints"."""

    def __init__(self, page: Any, where: str = "#pose") -> None:
        self.page = page
        self.all = page.locator(where)
        self.frame = self.all.locator(".frame")

    def point(self, place: Any) -> tuple[float, float]:
        box = self.frame.bounding_box()
        return box["x"] + place[0] * box["width"], box["y"] + place[1] * box["height"]

    def drag(self, start: Any, end: Any) -> None:
        self.frame.scroll_into_view_if_needed()
        self.page.mouse.move(*self.point(start))
        self.page.mouse.down()
        self.page.mouse.move(*self.point(end), steps=5)
        self.page.mouse.up()

    def joint(self, name: str) -> Any:
        return self.all.locator(f'.joint[data-joint="{name}"]')

    def press(self, label: str) -> None:
        self.all.get_by_role("button", name=label, exact=True).click()


def mirrored(keypoints: Keypoints) -> Keypoints:
    """The mirror image of a person, (18, 2) fractions: the right side becomes the left one."""
    order = [JOINTS.index(SIDES.get(name, name)) for name in JOINTS]
    return np.array((1.0, 0.0)) + keypoints[order] * np.array((-1.0, 1.0))


@contextmanager
def opened(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.requested, page.errors = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("pageerror", lambda err: page.errors.append(str(err)))
    page.goto(url)
    page.wait_for_selector(".joint[transform]")
    page.wait_for_selector(".app > .translucent", state="detached")  # Gradio's loading overlay
    yield page
    assert page.errors == []
    external = [u for u in page.requested if not u.startswith((url, "data:", "blob:"))]
    assert external == []
    context.close()


def press_generate(page: Any, person: Path | None = None) -> None:
    if person is not None:
        page.set_input_files("#people input[type=file]", str(person))
        page.wait_for_selector("#people img")
    page.click("#generate")


def touch(page: Any, *path: tuple[float, float]) -> None:
    """Move a finger along ``path``, in pixels: down at the first point, up at the last."""
    session = page.context.new_cdp_session(page)

    def send(kind: str, *points: tuple[float, float]) -> None:
        touch = {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]}
        session.send("Input.dispatchTouchEvent", touch)

    send("touchStart", path[0])
    for (x, y), (to_x, to_y) in itertools.pairwise(path):
        for share in (0.2, 0.4, 0.6, 0.8, 1):
            send("touchMove", (x + (to_x - x) * share, y + (to_y - y) * share))
    send("touchEnd")
