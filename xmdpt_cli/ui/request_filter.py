"""Filter the requests to the page by origin, host name and size.

A page of another site that is open in the same browser can send requests to this machine: under a
name of that site (DNS rebinding; the Host header shows it) or as a request to another origin (the
Origin header shows it). Both are refused here, and so are requests larger than the page ever sends.
"""

from __future__ import annotations

import time
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xmdpt_cli.ui.hosts import Hosts
from xmdpt_cli.ui.uploads import make_room, remove_parts

MEGABYTE = 2**20
MOST_FILE = 64 * MEGABYTE  # of one upload
MOST_REQUEST = 128 * MEGABYTE  # of all files of one request
MOST_CALL = 16 * MEGABYTE  # of one call: settings, and small copies of the images
MOST_TOTAL = 2048 * MEGABYTE  # of all stored files; the oldest are removed first
SAFE = {"GET", "HEAD", "OPTIONS"}
_API = "/gradio_api/"
# Gradio's endpoints that this page does not use: they fetch URLs for a client, store recordings
_CLOSED = ("proxy=", "file=http", "process_recording", "vibe", "stream/", "component_server")


class RequestFilter:
    """ASGI middleware: refuses foreign names and origins, limits request size and storage."""

    def __init__(self, app: ASGIApp, hosts: Hosts, folder: Path) -> None:
        self.app, self.hosts, self.folder = app, hosts, folder
        self._pending = 0  # bytes of the requests in progress
        self._start_times: list[float] = []  # of the requests in progress

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refused = self._refused(scope, headers)
        if scope["type"] != "http" or refused is not None:  # the page has no websockets
            status, text = refused or (403, "no websockets here")
            await PlainTextResponse(f"{text}\n", status)(scope, receive, send)
            return
        if scope["method"] in SAFE:
            await self.app(scope, receive, send)
            return
        await self._bounded(scope, receive, send, headers)

    def _refused(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """(status, message) for a request that does not come from this page."""
        host = headers.get("host", "")
        if not self.hosts.known(host):
            return 400, "this page is not served under this name (xmdpt ui --allow-host NAME)"
        origin = headers.get("origin")
        if origin is not None and not self.hosts.same_origin(origin, host):
            return 403, "requests of other sites are refused (xmdpt ui --allow-host NAME)"
        path = str(scope.get("path", ""))
        if path.startswith(_API) and path.removeprefix(_API).lower().startswith(_CLOSED):
            return 403, "not served here"
        return None

    async def _bounded(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
        limit = MOST_REQUEST if scope["path"].startswith(f"{_API}upload") else MOST_CALL
        stated = headers.get("content-length", "")
        length = int(stated) if stated.isascii() and stated.isdigit() else limit
        if length > limit or self._pending + length > MOST_TOTAL:
            too_large = PlainTextResponse(f"more than {limit // MEGABYTE} MB at once\n", 413)
            await too_large(scope, receive, send)
            return
        count, started = 0, False

        async def counted() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > limit:
                raise _TooLargeError
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            if count <= limit:  # else Gradio answers a request that is refused here
                started = True
                await send(message)

        self._pending += length
        start = time.time()
        self._start_times.append(start)
        try:
            make_room(self.folder, MOST_TOTAL - self._pending)
            await self.app(scope, counted, noted)
        except _TooLargeError:
            pass
        finally:
            self._pending -= length
            self._start_times.remove(start)
            remove_parts(self.folder, min(self._start_times, default=None))
        if count > limit and not started:  # FastAPI may have answered the error
            too_large = PlainTextResponse(f"more than {limit // MEGABYTE} MB at once\n", 413)
            await too_large(scope, receive, send)


class _TooLargeError(Exception):
    """The body is larger than allowed, whatever its Content-Length."""
