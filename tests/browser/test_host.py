"""Only this machine may open the app: a rebinding page comes with a foreign Host header."""

from __future__ import annotations

import http.client

import pytest

pytestmark = pytest.mark.browser


def _answer(server, address: str, headers: dict[str, str]) -> int:
    """The status of a request written by hand."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest("GET", address, skip_host=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    try:
        return int(connection.sock.recv(64).split()[1])
    finally:
        connection.close()


def _upgrade(host: str) -> dict[str, str]:
    return {
        "Host": host,
        "Origin": f"http://{host}",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }


def test_foreign_host_is_refused_whatever_it_asks_for(server):
    for host in ("evil.example", f"evil.example:{server.port}", "127.0.0.1.evil.example"):
        assert _answer(server, "/_stcore/stream", _upgrade(host)) in (400, 403)
        assert _answer(server, "/", {"Host": host}) == 400
    own = f"127.0.0.1:{server.port}"
    assert _answer(server, "/_stcore/stream", _upgrade(own)) == 101
    assert _answer(server, "/", {"Host": own}) == 200


def test_browser_is_told_of_the_charting_code_with_the_page(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/sensitivity")
    page = connection.getresponse()
    page.read()
    address, relation = str(page.getheader("link")).split("; ")
    assert relation == "rel=modulepreload"
    connection.request("HEAD", f"/{address.strip('<>')}")
    assert connection.getresponse().status == 200
    connection.close()
