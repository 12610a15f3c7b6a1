"""The server of the page: local by default, and without telemetry."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.ui.hosts import Hosts
from xmdpt_cli.ui.stopping import PATIENCE, end_now, leave_stuck, stopping

if TYPE_CHECKING:
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline
    from xmdpt_cli.ui.examples import Examples


def check_gradio() -> None:
    """Set the environment of Gradio, and raise XmdptError if it is not installed.

    Call it before any import of Gradio, which reads these settings when it is imported.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_ALLOWED_PATHS"] = ""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio  # noqa: F401
    except ImportError as err:
        raise XmdptError(
            f"the page needs Gradio, which is not installed ({err})", "pip install 'xmdpt-cli[ui]'"
        ) from None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, opened before the model is loaded, so that a taken port fails early.

    Port 0 takes a free one. XmdptError if the port is taken, ConfigError if ``host`` is not an
    address of this machine.
    """
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, OverflowError, UnicodeError) as err:
        raise ConfigError(f"no such address: {host}:{port} ({err})", "--host 127.0.0.1") from None
    listener = socket.socket(kind, socket.SOCK_STREAM)
    if sys.platform != "win32":  # on Windows it would let two servers share one port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen()
    except OSError as err:
        listener.close()
        if err.errno != errno.EADDRINUSE:
            raise ConfigError(f"cannot listen on {host}:{port} ({err.strerror})") from None
        raise XmdptError(
            f"port {port} of {host} is taken by another program",
            "--port 0 takes any free one",
        ) from None
    return listener


def address(listener: socket.socket) -> str:
    """The URL for a browser on this machine."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(
    pipe: XMDPTPipeline,
    title: str,
    listener: socket.socket,
    *,
    browser: bool = False,
    host: str = "127.0.0.1",
    allow_hosts: Sequence[str] = (),
    examples: Examples | None = None,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until Ctrl-C or SIGTERM (KeyboardInterrupt).

    ``ready`` is called with the URL once the page answers. ``host``: the address of ``listener``;
    ``allow_hosts``: names of a reverse proxy. ``examples``: people and poses to click; None: those
    of the model's dataset.
    """
    from xmdpt_cli.ui.uploads import upload_folder

    with stopping() as before, upload_folder() as folder:
        try:
            _serve(
                pipe, title, listener, folder, browser, Hosts(host, allow_hosts), examples, ready
            )
        finally:
            leave_stuck(before, folder)


def _serve(
    pipe: XMDPTPipeline,
    title: str,
    listener: socket.socket,
    folder: Path,
    browser: bool,
    hosts: Hosts,
    examples: Examples | None,
    ready: Callable[[str], None],
) -> None:
    import uvicorn

    from xmdpt_cli.ui.application import application

    url = address(listener)
    config = uvicorn.Config(
        application(pipe, title, hosts, folder, examples),
        log_level="warning",
        timeout_graceful_shutdown=1,  # open pages would delay the shutdown
    )
    server = uvicorn.Server(config)

    def announce() -> None:
        while not server.started:
            if stopped.wait(0.05):
                return
        ready(url)
        if browser:
            webbrowser.open(url)
        while not server.should_exit:  # the signals set it
            if stopped.wait(0.2):
                return
        if not stopped.wait(PATIENCE):
            end_now(folder)  # something blocks the server's loop

    stopped = threading.Event()
    threading.Thread(target=announce, name="announce", daemon=True).start()
    try:
        server.run(sockets=[listener])
    finally:
        stopped.set()
