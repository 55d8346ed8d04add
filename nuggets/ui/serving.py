"""Around the pages: who may ask for them, and what is brought before they need it.

Modules are imported as the server starts, and the browser hears of its charting code with the
page: both take most of a second, and neither waits for the other.
"""

from __future__ import annotations

import gc
import pkgutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import streamlit as st
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from streamlit import config

from nuggets import demo

_HEADERS = (
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_FIRST = ("nuggets.ui.frame.shell", "pandas", "plotly.graph_objects")
_SCRIPT = "nuggets.ui.router"
"""Importing the router would draw it."""
_BEHIND = "nuggets-warm-up"


def middleware() -> list[Middleware]:
    """What every request goes through.

    Streamlit refuses foreign hosts on its socket alone; here nothing at all is served to them.
    """
    hosts = list(st.get_option("server.allowedHosts")) or ["*"]
    return [
        Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
        Middleware(OwnPagesOnly),
        Middleware(PreloadCharts),
        Middleware(TellAddress),
    ]


@asynccontextmanager
async def lifespan(_app: Any) -> AsyncIterator[None]:
    """Imports in a thread of its own from the server's start; at its end frees loaded models.

    Import locks let a page that comes too early wait for the module that it needs, no more. When
    the server ends, models that it had loaded for questions leave memory; runs go on.

    The terminal has read the address by now. From here on Streamlit's welcome would be a card that
    lies over the controls of every page and offers to install instructions for coding agents.
    """
    config.set_option("logger.hideWelcomeMessage", True)
    Thread(target=_import_all, name=_BEHIND, daemon=True).start()
    yield
    import_module("nuggets.playground.mailbox").free_own()


def _import_all() -> None:
    import nuggets.ui
    from nuggets import api

    for name in dir(api):
        getattr(api, name)
    ours = (found.name for found in pkgutil.walk_packages(nuggets.ui.__path__, "nuggets.ui."))
    for name in (*_FIRST, *ours):
        if name != _SCRIPT:
            import_module(name)
    # Streamlit collects garbage after every drawing and before its end is told; modules never are
    # garbage, and looking through theirs took a tenth of a second each time.
    gc.freeze()


class OwnPagesOnly:
    """Middleware that answers this app's own pages alone, which nobody can frame.

    Where another address asks, be it another port of this machine, nothing behind is reached: on a
    foreign Origin Streamlit would look up this machine's external address on the internet.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._most = (st.get_option("server.maxUploadSize") + 1) * 2**20

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Refuses what comes from elsewhere or is too large; the rest gets `_HEADERS`."""

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif (status := self._refusal(scope)) is None:
            await self._app(scope, receive, sent if scope["type"] == "http" else send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await sent({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    def _refusal(self, scope: Any) -> int | None:
        """The status that says why not: 403 for a foreign page, 411 and 413 for an upload.

        A demo takes no uploads at all.
        """
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return 403
        if scope["type"] == "http" and scope["method"] in ("POST", "PUT", "PATCH"):
            if demo.on():
                return 403
            length = headers.get("content-length", "")
            if not length.isdecimal():
                return 411
            return 413 if int(length) > self._most else None
        return None


class PreloadCharts:
    """Middleware that names the browser the charting code as it gets the page itself.

    Without it the browser asks for these 5 MB when the first chart arrives, a second later.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        # One of Streamlit's own files; its name carries a hash. Without it nothing is lost.
        static = Path(st.__file__).parent / "static" / "static" / "js"
        code = next(static.glob("PlotlyChart.*.js"), None)
        self._link = None if code is None else f"<static/js/{code.name}>; rel=modulepreload"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Adds the header to pages, and leaves everything else alone."""

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start" and self._link is not None:
                headers = message["headers"]
                if dict(headers).get(b"content-type", b"").startswith(b"text/html"):
                    message = {**message, "headers": [*headers, (b"link", self._link.encode())]}
            await send(message)

        await self._app(scope, receive, sent if scope["type"] == "http" else send)


class TellAddress:
    """Middleware that tells a page where its server is.

    Streamlit's page otherwise looks for it below its own address first, and each link to a page
    writes two failures into the browser's console. What the browser has before the address that
    arrives here, such as a proxy's prefix, belongs to the server's.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Writes a line into the head of pages, and leaves everything else alone."""
        if scope["type"] != "http" or "text/html" not in Headers(scope=scope).get("accept", ""):
            await self._app(scope, receive, send)
            return
        plain = [item for item in scope["headers"] if item[0] != b"accept-encoding"]
        started: Any = None
        body = b""

        async def sent(message: Any) -> None:
            nonlocal started, body
            if message["type"] == "http.response.start":
                started = message
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            whole = body.replace(b"<head>", b"<head>" + _address(scope), 1)
            headers = [item for item in started["headers"] if item[0] != b"content-length"]
            if started["status"] != 304:
                headers.append((b"content-length", str(len(whole)).encode()))
            await send({**started, "headers": headers})
            await send({"type": "http.response.body", "body": whole})

        await self._app({**scope, "headers": plain}, receive, sent)


def _address(scope: Any) -> bytes:
    """The script that says it: the page's own address without the part that arrived here."""
    seen = len(scope.get("raw_path") or scope["path"])
    base = f"location.origin+location.pathname.slice(0,-{seen})"
    return f"<script>window.__streamlit={{BACKEND_BASE_URL:{base}}}</script>".encode()
