"""The app in a real headless Chromium: a fresh server, a fresh home, nothing from outside."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCREENSHOTS = Path(__file__).parent / "screenshots"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
IDLE = '[data-testid=stApp][data-test-script-state="notRunning"]'
# Streamlit looks for its server below the page's own address first, and falls back at once.
EXPECTED_MISSES = ("/_stcore/health", "/_stcore/host-config")


@dataclass
class Server:
    """A running app."""

    url: str
    home: Path
    log: Path


@dataclass
class Seen:
    """What a page did that it should not have done."""

    foreign: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where Chromium is; tests that need it are skipped without one."""
    pytest.importorskip("playwright", reason="playwright is not installed")
    path = (
        os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    )
    if path is None:
        pytest.skip("no Chromium here: install the package chromium, or set CHROMIUM to its path")
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A fresh server on a free port with a fresh home."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home, log = tmp_path / "home", tmp_path / "server.log"
    command = [sys.executable, "-m", "streamlit", "run", "app.py", f"--server.port={port}"]
    command += ["--server.headless=true", "--server.fileWatcherType=none"]
    environment = {**os.environ, "NUGGETS_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)
    found = Server(f"http://127.0.0.1:{port}", home, log)
    try:
        _wait_until_healthy(found, process)
        yield found
    finally:
        for run in (home / "runs").glob("2*"):
            (run / "cancel").touch()  # workers outlive the server; these have nobody to serve
        process.terminate()
        process.wait(timeout=20)


def _wait_until_healthy(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, server.log.read_text()
        try:
            with urllib.request.urlopen(f"{server.url}/_stcore/health", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server did not start: " + server.log.read_text())


@pytest.fixture
def browser(chromium: str):
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield found
        found.close()


@pytest.fixture
def open_context(browser, server: Server):
    """`open_context("dark")` → a page of its own session, and what it did wrong so far."""
    contexts = []

    def opened(scheme: str = "light"):
        context = browser.new_context(
            viewport={"width": 1280, "height": 720}, color_scheme=scheme, base_url=server.url
        )
        contexts.append(context)
        seen = Seen()
        context.route("**/*", lambda route: _guard(route, server, seen))
        page = context.new_page()
        page.set_default_timeout(60_000)  # a fresh home starts torch once, in a child
        page.on("console", lambda message: _note_console(message, seen))
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        return page, seen

    yield opened
    for context in contexts:
        context.close()


def _guard(route, server: Server, seen: Seen) -> None:
    url = route.request.url
    if url.startswith((server.url, "data:", "blob:")):
        route.continue_()
    else:
        seen.foreign.append(url)
        route.abort()


def _note_console(message, seen: Seen) -> None:
    where = str(message.location.get("url", ""))
    if message.type == "error" and not where.endswith(EXPECTED_MISSES):
        seen.errors.append(f"{message.text} ({where})")


def idle(page) -> None:
    """Waits until the script has run to its end."""
    page.wait_for_timeout(250)  # a click needs a moment to reach the server
    page.wait_for_selector(IDLE)


@pytest.fixture
def shoot():
    """`shoot(page, "transfer-light")` keeps a picture in a folder that git ignores."""

    def take(page, name: str) -> None:
        SCREENSHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}.png")

    return take
