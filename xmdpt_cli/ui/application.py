"""The page as an ASGI application, with its theme and its request filter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
import gradio.routes
from fastapi import FastAPI
from starlette.middleware import Middleware

from xmdpt_cli.ui.examples import Examples, find_examples
from xmdpt_cli.ui.hosts import Hosts
from xmdpt_cli.ui.page import build
from xmdpt_cli.ui.request_filter import MOST_FILE, RequestFilter
from xmdpt_cli.ui.skeleton import package_text

if TYPE_CHECKING:
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline

MOST_WAITING = 64  # calls in the queue


def application(
    pipe: XMDPTPipeline,
    title: str,
    hosts: Hosts,
    folder: Path,
    examples: Examples | None = None,
) -> FastAPI:
    """The page and its request filter. ``folder``: the one of ``upload_folder``; ``examples``: see
    ``serve``.

    Gradio's own ``launch`` is not used: it requests its own URL, which fails behind a proxy, and it
    can share the page, search for ports and start Node.
    """
    system = [gr.themes.Font(name) for name in ("system-ui", "Segoe UI", "Roboto", "sans-serif")]
    mono = [gr.themes.Font(name) for name in ("ui-monospace", "Consolas", "monospace")]
    theme = gr.themes.Base(
        primary_hue="blue", neutral_hue="slate", radius_size="md", font=system, font_mono=mono
    )
    gradio.routes.DEFAULT_TEMP_DIR = str(folder)  # read once, when Gradio is imported
    page = build(pipe, title, find_examples(pipe) if examples is None else examples, folder)
    # set by launch: without it, Gradio does not check which files a client names
    page.has_launched = page.is_running = True
    return gr.mount_gradio_app(
        FastAPI(
            openapi_url=None, middleware=[Middleware(RequestFilter, hosts=hosts, folder=folder)]
        ),
        page.queue(max_size=MOST_WAITING),
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,  # the errors of Gradio quote values; the page shows its errors itself
        max_file_size=MOST_FILE,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        theme=theme,
        css=package_text("page.css"),
    )
