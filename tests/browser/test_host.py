"""Only this machine may open the app: a rebinding page comes with a foreign Host header."""

from __future__ import annotations

import http.client
import signal

import psutil
import pytest

from tests.browser.conftest import serving

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One for all that only ask it."""
    with serving(tmp_path_factory.mktemp("host")) as found:
        yield found


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


def test_another_port_of_this_machine_is_as_foreign_as_any_other_page(server):
    own = f"127.0.0.1:{server.port}"
    for origin in ("http://127.0.0.1:1", "http://localhost:8501", "http://evil.example", "null"):
        upgrade = _upgrade(own) | {"Origin": origin}
        assert _answer(server, "/_stcore/stream", upgrade) == 403, origin
        assert _answer(server, "/", {"Host": own, "Origin": origin}) == 403, origin
    tunnel = "localhost:9999"
    assert _answer(server, "/_stcore/stream", _upgrade(tunnel)) == 101
    assert "external" not in server.log.read_text().lower()


def test_no_page_can_frame_the_app_or_guess_a_kind_of_content(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    for address in ("/", "/sensitivity", "/_stcore/health", "/static/nothing.js"):
        connection.request("GET", address)
        answer = connection.getresponse()
        answer.read()
        assert answer.getheader("content-security-policy") == "frame-ancestors 'none'", address
        assert answer.getheader("x-frame-options") == "DENY"
        assert answer.getheader("x-content-type-options") == "nosniff"
    connection.close()


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


def test_ctrl_c_leaves_no_process(tmp_path):
    with serving(tmp_path) as own:
        assert own.process is not None
        started = psutil.Process(own.process.pid)
        all_of_it = [started, *started.children(recursive=True)]
        assert "streamlit" in started.cmdline()
        own.process.send_signal(signal.SIGINT)
        own.process.wait(timeout=60)
        assert psutil.wait_procs(all_of_it, timeout=60)[1] == []
