"""Who is answered: this app's own pages, for uploads of a bounded size."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from streamlit import config

from nuggets import demo
from nuggets.ui import serving
from nuggets.ui.serving import OwnPagesOnly, TellAddress

OWN = "127.0.0.1:8501"


def ask(kind: str = "http", method: str = "GET", **headers: str) -> list[Any]:
    """What is sent back; `reached` is in it if the app behind was asked."""
    sent: list[Any] = []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        sent.append("reached")
        if kind == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    named = {"host": OWN} | {name.replace("_", "-"): value for name, value in headers.items()}
    raw = [(name.encode(), value.encode()) for name, value in named.items()]
    scope = {"type": kind, "method": method, "headers": raw}
    asyncio.run(OwnPagesOnly(behind)(scope, None, send))
    return sent


FOREIGN = ["http://127.0.0.1:9000", "http://localhost:8501", "http://evil.example", "null", "",
           f"http://{OWN}.evil.example", f"http://evil.example/{OWN}"]  # fmt: skip


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_foreign_origin_reaches_nothing(origin):
    assert ask("websocket", origin=origin) == [{"type": "websocket.close", "code": 1008}]
    start = ask("http", origin=origin)[0]
    assert start["status"] == 403


@pytest.mark.parametrize("host", [OWN, "localhost:9999", "[::1]:8501"])
def test_the_origin_that_equals_the_host_is_answered_through_a_tunnel_too(host):
    assert "reached" in ask("websocket", host=host, origin=f"http://{host}")
    assert "reached" in ask("http", host=host, origin=f"https://{host}")


def test_who_sends_no_origin_is_no_page_of_a_browser():
    assert "reached" in ask("websocket")
    assert "reached" in ask("http")


@pytest.mark.parametrize(
    ("length", "status"), [("", 411), ("x", 411), ("-1", 411), ("30000000", 413), ("9" * 40, 413)]
)
def test_an_upload_says_its_size_and_keeps_to_the_limit(length, status):
    assert ask(method="PUT", content_length=length)[0]["status"] == status
    assert "reached" in ask(method="PUT", content_length="20000000")


def test_every_answer_forbids_frames_and_guesses():
    headers = dict(ask()[-1]["headers"])
    assert headers[b"content-security-policy"] == b"frame-ancestors 'none'"
    assert headers[b"x-frame-options"] == b"DENY"
    assert headers[b"x-content-type-options"] == b"nosniff"


def told(path: str, accept: str = "text/html,*/*") -> tuple[dict[bytes, bytes], bytes]:
    """Headers and body of a page that comes in two parts, as the browser gets it."""
    sent: list[Any] = []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        assert accept == "*/*" or b"accept-encoding" not in dict(scope["headers"])
        start = {"status": 200, "headers": [(b"content-length", b"13")]}
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": b"<head>", "more_body": True})
        await send({"type": "http.response.body", "body": b"</head>"})

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"accept", accept.encode()), (b"accept-encoding", b"gzip")]
    scope = {"type": "http", "path": path, "raw_path": path.encode(), "headers": headers}
    asyncio.run(TellAddress(behind)(scope, None, send))
    return dict(sent[0]["headers"]), b"".join(message.get("body", b"") for message in sent)


def test_a_page_is_told_its_servers_address_behind_a_proxys_prefix_too():
    headers, body = told("/runs")
    assert b"location.pathname.slice(0,-5)" in body
    assert body.startswith(b"<head><script>window.__streamlit=")
    assert headers[b"content-length"] == str(len(body)).encode()
    assert b"slice(0,-1)" in told("/")[1]


def test_what_is_no_page_passes_as_it_is():
    headers, body = told("/runs", "*/*")
    assert (headers[b"content-length"], body) == (b"13", b"<head></head>")


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH"])
def test_a_demo_takes_no_uploads(method, monkeypatch):
    monkeypatch.setenv(demo.SWITCH, "1")
    assert ask(method=method, content_length="20")[0]["status"] == 403
    assert "reached" in ask()


def test_no_card_of_streamlits_lies_over_the_pages(monkeypatch):
    """It offers to write instructions for coding agents into the folder of the app."""
    skills = pytest.importorskip("streamlit.web.skills")  # older ones have no such card
    monkeypatch.setattr(serving, "_import_all", lambda: None)
    monkeypatch.setattr("nuggets.playground.mailbox.free_own", lambda: None)
    monkeypatch.setattr(skills, "agent_harness_present", lambda: True)
    before = config.get_option("logger.hideWelcomeMessage"), config.get_option("server.headless")
    config.set_option("server.headless", False)

    async def started() -> str:
        async with serving.lifespan(None):
            return skills.nudge_suppression_reason()

    try:
        assert asyncio.run(started()) == "welcome_hidden"
    finally:
        config.set_option("logger.hideWelcomeMessage", before[0])
        config.set_option("server.headless", before[1])
