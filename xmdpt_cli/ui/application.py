"""The page as an ASGI application: design and doors. Run by ``serve``, by tests without a port."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gradio as gr
from fastapi import FastAPI

from xmdpt_cli.ui.examples import find_examples
from xmdpt_cli.ui.page import build
from xmdpt_cli.ui.skeleton import text_beside

if TYPE_CHECKING:
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline

MOST_BYTES = "64mb"  # of one dropped file


def application(pipe: XMDPTPipeline, title: str) -> FastAPI:
    """Gradio's own ``launch`` is not used: it asks itself over HTTP whether it runs, which fails
    behind a proxy, and it can share, search ports and start Node."""
    system = [gr.themes.Font(name) for name in ("system-ui", "Segoe UI", "Roboto", "sans-serif")]
    mono = [gr.themes.Font(name) for name in ("ui-monospace", "Consolas", "monospace")]
    theme = gr.themes.Base(
        primary_hue="blue", neutral_hue="slate", radius_size="md", font=system, font_mono=mono
    )
    return gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        build(pipe, title, find_examples(pipe)).queue(),
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=True,
        max_file_size=MOST_BYTES,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        theme=theme,
        css=text_beside("page.css"),
    )
