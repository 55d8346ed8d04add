"""The app in a real headless Chromium: a fresh server, a fresh home, nothing from outside.

`NUGGETS_PYTHON` serves it from another environment, such as one that has the built wheel alone.

Whatever a test looks at, it fails if the server logged a problem, a page asked for anything from
elsewhere, the browser's console showed an error, or Streamlit drew an exception.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TELLING = Path(__file__).parent / "told_by_workers"
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
PAGES = ("", *sorted(file.stem for file in (ROOT / "pages").glob("*.py") if file.stem != "home"))
PATIENCE_MS = 120_000
"""For anything that needs no worker, on a machine that may be busy with other tests."""
WORK_MS = 360_000
"""For a worker's job of some seconds, likewise."""
IDLE = '[data-testid=stApp][data-test-script-state="notRunning"]'
_PROBLEM = re.compile(r"Traceback|Error|Exception|WARNING")


@dataclass
class Server:
    """The app as a process, on one port and one home for the whole test."""

    port: int
    home: Path
    log: Path
    told: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it and waits until it answers."""
        python = os.environ.get("NUGGETS_PYTHON", sys.executable)
        command = [python, "-m", "nuggets", "app", "--no-open", f"--port={self.port}"]
        environment = {**os.environ, "NUGGETS_HOME": str(self.home), "HF_HUB_OFFLINE": "1"}
        environment["NUGGETS_TOLD_BY_WORKERS"] = str(self.told)
        ours = None if "NUGGETS_PYTHON" in os.environ else os.environ.get("PYTHONPATH")
        paths = [str(TELLING), *filter(None, [ours])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        with self.log.open("a") as out:
            self.process = subprocess.Popen(
                command, cwd=self.log.parent, env=environment, stdout=out, stderr=out
            )
        _wait_until_healthy(self)

    def stop(self) -> None:
        """Stops it; workers live on."""
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:  # it waits for a window that does not close
            self.process.kill()
            self.process.wait(timeout=60)

    def worker(self, run_id: str) -> int:
        """The process id of a run's worker, as it told it itself."""
        told = self.told / run_id
        deadline = time.monotonic() + 120
        while not told.is_file() or not told.read_text().endswith("\n"):
            assert time.monotonic() < deadline, f"no worker of {run_id} told its process id"
            time.sleep(0.02)
        return int(told.read_text())


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


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A fresh server on a free port with a fresh home, which is also this process's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = Server(port, folder / "home", folder / "server.log", folder / "told")
    found.told.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUGGETS_HOME", str(found.home))
        found.start()
        try:
            yield found
        finally:
            _end_workers(found.home)
            found.stop()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """One of the test's own. Files whose tests change nothing share one."""
    with serving(tmp_path) as found:
        yield found


def _end_workers(home: Path) -> None:
    """Workers outlive the server; these have nobody to serve."""
    from nuggets import api

    for run in (home / "runs").glob("2*"):
        (run / "cancel").touch()
    api.playground.free(wait=60)


def _wait_until_healthy(server: Server) -> None:
    assert server.process is not None
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.process.poll() is None, server.log.read_text()
        try:
            with urllib.request.urlopen(f"{server.url}/_stcore/health", timeout=10):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server did not start: " + server.log.read_text())


@pytest.fixture(scope="module")
def browser(chromium: str):
    """A headless Chromium; every test opens windows of its own in it, which share nothing."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield found
        found.close()


@pytest.fixture
def open_context(browser, server: Server, shoot, request: pytest.FixtureRequest):
    """`open_context("dark")` → a page of its own session, and what all pages did wrong so far.

    All of it is judged at the end of the test, whatever the test itself looks at.
    """
    windows, seen = [], Seen()

    def opened(scheme: str = "light"):
        context = browser.new_context(
            viewport={"width": 1280, "height": 720}, color_scheme=scheme, base_url=server.url
        )
        context.add_init_script(_STILL)
        context.route("**/*", lambda route: _guard(route, server, seen))
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: _note_console(message, seen))
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        windows.append(page)
        return page, seen

    yield opened
    drawn = [page.get_by_test_id("stException").all_inner_texts() for page in windows]
    for page in windows:
        shoot(page, f"last-of-{request.node.name}")
        page.goto("about:blank")  # ends the session; a closed window tears its socket down
        page.context.close()
    assert seen == Seen()
    assert not any(drawn), drawn
    problems = [line for line in server.log.read_text().splitlines() if _PROBLEM.search(line)]
    assert not problems, server.log.read_text()


# What turns or pulses until something is done is painted by the processor here: a third of all that
# a browser computes. Every animation is at its end at once.
_STILL = """document.addEventListener('DOMContentLoaded', () => {
  const still = document.createElement('style');
  still.textContent = '*, *::before, *::after {' +
    'animation-duration: 0.01ms !important; animation-iteration-count: 1 !important}';
  document.head.append(still);
})"""


def _guard(route, server: Server, seen: Seen) -> None:
    url = route.request.url
    if url.startswith((server.url, "data:", "blob:", "about:")):
        route.continue_()
    else:
        seen.foreign.append(url)
        route.abort()


def _note_console(message, seen: Seen) -> None:
    if message.type == "error":
        seen.errors.append(f"{message.text} ({message.location.get('url', '')})")


def idle(page) -> None:
    """Waits until the script has run to its end and all that it sent is drawn."""
    page.wait_for_timeout(250)  # a click needs a moment to reach the server
    page.wait_for_selector(IDLE)
    page.wait_for_load_state("networkidle")
    page.wait_for_function(_DRAWN)
    assert page.get_by_test_id("stException").count() == 0


# Streamlit loads the code of each kind of widget when it first meets one; a skeleton stands in.
# What lies in a tab that is not open has no `offsetParent`.
_DRAWN = """() => !document.querySelector('[data-testid=stSkeleton]')
  && [...document.querySelectorAll('[data-testid=stPlotlyChart]')]
    .every(chart => chart.querySelector('.main-svg') || !chart.offsetParent)"""

_CELL = """([key, module]) => {
  const plot = document.querySelector(`.st-key-${key} .js-plotly-plot`);
  const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect();
  const cells = plot.data.find(trace => trace.customdata);
  const i = cells.customdata.indexOf(module);
  return [box.left + xaxis._offset + xaxis.d2p(cells.x[i]),
          box.top + yaxis._offset + yaxis.d2p(cells.y[i])];
}"""


def click_cell(page, key: str, module: str) -> None:
    """A real click on a matrix's cell of a map."""
    page.locator(f".st-key-{key} .js-plotly-plot").wait_for()
    idle(page)
    page.locator(f".st-key-{key}").scroll_into_view_if_needed()
    page.mouse.click(*page.evaluate(_CELL, [key, module]))


def until(holds: Callable[[], bool], seconds: float = WORK_MS / 1000) -> None:
    """Waits until something holds that no page shows."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never held"
        time.sleep(0.02)


@pytest.fixture
def shoot():
    """`shoot(page, "transfer-light")` keeps a picture in a folder that git ignores."""

    def take(page, name: str) -> None:
        SCREENSHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}.png")

    return take
