"""A running page: a server on a free port, with a fake pipeline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import CHROMIUM, QUIET, opened, press_generate
from fake_pipeline import FakePipeline
from PIL import Image

Running = Callable[[FakePipeline], AbstractContextManager[str]]


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    """``with running(pipe) as url``: a server of the page of that pipeline, on loopback."""
    pytest.importorskip("gradio", reason="the ui extra is not installed")
    from xmdpt_cli.ui.serve import address, check_gradio, listen

    check_gradio()

    @contextmanager
    def run(pipe: FakePipeline) -> Iterator[str]:
        import uvicorn

        from xmdpt_cli.ui.application import application
        from xmdpt_cli.ui.hosts import Hosts
        from xmdpt_cli.ui.uploads import upload_folder

        with upload_folder() as folder, listen("127.0.0.1", 0) as listener:
            app = application(pipe, "RUN <b>/model", Hosts("127.0.0.1", ["pages.example"]), folder)
            config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
            thread.start()
            wait_until(lambda: server.started, "the server starts")
            try:
                yield address(listener)
            finally:
                server.should_exit = True
                thread.join(timeout=20)

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("NO_PROXY", "*")
        environment.setenv("no_proxy", "*")
        yield run


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, running: Running) -> Iterator[tuple[str, FakePipeline]]:
    """URL and pipeline of the page of a module, which may set CONDITIONING."""
    pipe = FakePipeline(conditioning=getattr(request.module, "CONDITIONING", "vector"))
    with running(pipe) as url:
        yield url, pipe


@pytest.fixture
def url(server: tuple[str, FakePipeline]) -> str:
    return server[0]


@pytest.fixture
def pipe(server: tuple[Any, FakePipeline]) -> FakePipeline:
    """The pipeline of the server, as it was at first."""
    conditioning = server[1].sampler.model.conditioning
    server[1].__init__(conditioning=conditioning)  # type: ignore[misc]
    return server[1]


@pytest.fixture
def page(url: str, pipe: FakePipeline, browser: Any) -> Iterator[Any]:
    """The page in a window of its own."""
    with opened(browser, url) as opened_page:
        yield opened_page


def wait_until(done: Callable[[], object], what: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def generate(page: Any, pipe: FakePipeline) -> dict[str, Any]:
    """Generate, and return the arguments of the pipeline."""
    before = len(pipe.calls)
    press_generate(page)
    wait_until(lambda: len(pipe.calls) > before, "an image is generated")
    page.wait_for_selector("#result-status :text('in ')")
    return pipe.calls[-1]


@pytest.fixture
def person(tmp_path: Path) -> Path:
    """An image file: a horizontal gradient."""
    row = np.linspace(0, 255, 88)[None, :, None]
    image = np.broadcast_to(row, (128, 88, 3)).astype(np.uint8)
    path = tmp_path / "person one.png"
    Image.fromarray(image).save(path)
    return path


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    api = pytest.importorskip("playwright.sync_api", reason="the dev extra is not installed")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield running
        running.close()
