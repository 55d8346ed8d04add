"""The main job in a real browser: from a fresh server to the verdict, and nothing goes wrong."""

from __future__ import annotations

import http.client
import re

import pytest

from tests.browser.conftest import idle

pytestmark = pytest.mark.browser

PAGES = ("", "models", "sensitivity", "alignment", "transfer", "benchmarks", "runs")
PATIENCE_MS = 360_000
"""For a run of under a minute, on a machine that may be busy with other tests."""


def test_quick_runs_from_transfer_to_the_verdict(server, open_context, shoot):
    page, seen = open_context()
    page.goto("/transfer?task=reverse")
    idle(page)
    page.get_by_role("button", name="Start the transfer").click()
    page.get_by_role("button", name="Cancel", exact=True).first.wait_for()
    page.wait_for_url(re.compile(r"run=\d{8}-\d{6}-quick-"))
    page.get_by_text(re.compile(r"^Stage: train \(4 of 5\)")).wait_for(timeout=PATIENCE_MS)
    shoot(page, "transfer-running")
    address = page.url

    page.reload()  # half-way: the run is another process and goes on
    assert page.url == address
    page.get_by_text(re.compile(r"^Stage: ")).first.wait_for()
    page.get_by_role("button", name="Start the transfer").wait_for()

    page.get_by_role("button", name="See the benchmarks").click(timeout=PATIENCE_MS)
    page.wait_for_url(re.compile("/benchmarks"))
    idle(page)
    verdict = re.compile(r"(helps|hurts|no difference seen|same as its controls)", re.IGNORECASE)
    page.get_by_text(verdict).first.wait_for()
    shoot(page, "benchmarks-done")

    _delete_the_run(page)
    _nothing_went_wrong(server, seen)


def _delete_the_run(page):
    page.get_by_role("link", name="Runs", exact=True).click()
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    page.get_by_text("No runs yet").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_opens_by_its_own_link_on_a_fresh_server(server, open_context, shoot, scheme):
    page, seen = open_context(scheme)
    for name in PAGES:
        page.goto(f"/{name}?task=king")
        idle(page)
        page.get_by_role("heading", level=1).first.wait_for()
        assert page.get_by_role("combobox", name=re.compile("Task")).input_value() == "king"
        shoot(page, f"{name or 'home'}-{scheme}")
    _nothing_went_wrong(server, seen)


@pytest.mark.parametrize(("host", "status"), [("evil.example", 403), ("127.0.0.1", 101)])
def test_session_for_a_foreign_host_is_refused(server, host, status):
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    connection.putrequest("GET", "/_stcore/stream", skip_host=True)
    upgrade = {
        "Host": host,
        "Origin": f"http://{host}",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    for name, value in upgrade.items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.sock.recv(64).startswith(f"HTTP/1.1 {status}".encode())
    connection.close()


def _nothing_went_wrong(server, seen):
    assert seen.foreign == []
    assert seen.errors == []
    log = server.log.read_text()
    assert "Traceback" not in log, log
    assert "Error" not in log, log
