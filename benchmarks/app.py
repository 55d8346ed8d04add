"""`python -m benchmarks.app`: how long the app takes to be seen, in a real headless Chromium.

Every page is opened by its own link on a server that was started for it alone (*fresh*), then
once more in a new window on the same server (*warm*), and then a control is used (*redraw*). Times
end with the last change of the page: everything is drawn, charts included. Beside them stands the
processor time of the server, which says more than the clock on a machine that does other work.

`--against DIR` measures another checkout in turns with this one, so that both meet the same load.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import app_large

ROOT = Path(__file__).parents[1]
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
QUIET_MS = 400
"""A page that did not change for so long is finished."""
UNSEEN_MS = 3000
"""A redraw of which nothing was seen for so long changed nothing, too fast to be told."""
PATIENCE_MS = 120_000
_IDLE = '[data-testid=stApp][data-test-script-state="notRunning"]'
_WATCH = """
// What is inside a canvas is for screen readers; tables bring it 200 ms after they are drawn.
const unseen = node => (node.parentElement && node.parentElement.closest('canvas')) ||
  node.nodeName === 'CANVAS';
window.seen = {first: null, last: 0, began: 0, ended: -1};
new MutationObserver(changes => {
  const now = performance.now(), main = document.querySelector('[data-testid=stMain]');
  for (const change of changes)
    if (change.type === 'attributes') {
      if (change.target.dataset.testScriptState === 'notRunning') window.seen.ended = now;
    } else if (main && main.contains(change.target) && !unseen(change.target))
      window.seen.last = now;
  if (window.seen.first === null && main && main.querySelector('h1')) window.seen.first = now;
}).observe(document, {subtree: true, childList: true, characterData: true, attributes: true,
                      attributeFilter: ['data-test-script-state']});
for (const name of ['pointerdown', 'keydown'])
  document.addEventListener(name, () => { window.seen.began = performance.now() }, true);
"""
_FINISHED = f"""() => document.querySelector('{_IDLE}') && window.seen.first !== null
  && (Math.max(window.seen.ended, window.seen.last) > window.seen.began
      || performance.now() - window.seen.began > {UNSEEN_MS})
  && document.querySelectorAll('[data-testid=stSkeleton]').length === 0
  && performance.now() - Math.max(window.seen.last, window.seen.ended) > {QUIET_MS}"""

Use = Callable[[Any], None]


class Page(NamedTuple):
    """A page, and one control of it."""

    address: str
    control: str
    use: Use | None


def _press(name: str) -> Use:
    return lambda page: page.get_by_role("button", name=name, exact=True).first.click()


def _pick(label: str, option: str) -> Use:
    def use(page: Any) -> None:
        page.get_by_role("combobox", name=label).first.click()
        page.get_by_role("option", name=option, exact=True).click()

    return use


def _segment(name: str) -> Use:
    return lambda page: page.get_by_role("radio", name=name, exact=True).first.click()


def _switch(name: str) -> Use:
    return lambda page: page.get_by_text(name, exact=True).first.click()


def _step(label: str) -> Use:
    return lambda page: page.get_by_role("spinbutton", name=label).first.press("ArrowUp")


PAGES = (
    Page("", "", None),
    Page("models", "student: sibling", _pick("Student", "sibling")),
    Page("sensitivity", "scale: log", _segment("log")),
    Page("sensitivity", "blocks: max", _segment("max")),
    Page("alignment", "measure: R²", _pick("Measure", "R² of a linear map")),
    Page("transfer", "rank + 1", _step("Rank r")),
    Page("results?run={run}", "", None),
    Page("results?run={run}&tab=Curves", "curve of one arm", _press("plain")),
    Page("results?run={run}&tab=Items", "only flips", _switch("Changed answers only")),
    Page("paper", "ranks", _pick("Experiment", "ranks")),
    Page("playground", "tokens + 1", _step("Max new tokens")),
    Page("sweeps", "", None),
    Page("runs", "status: done", _pick("Status", "done")),
    Page("learn", "next chapter", _press("Next")),
)


class Times(NamedTuple):
    """Seconds on the clock: heading, all, redraw; and of the server's processor."""

    first: float
    whole: float
    warm: float
    redraw: float
    cpu: float
    warm_cpu: float
    redraw_cpu: float


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="with measured maps; made anew when not given")
    parser.add_argument("--against", type=Path, help="another checkout, measured in turns")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="pages whose address begins so")
    parser.add_argument("--json", type=Path, help="also write all rounds here")
    arguments = parser.parse_args()
    roots = [ROOT, *([arguments.against.resolve()] if arguments.against else [])]
    with _home(arguments.home) as home, _browser() as browser:
        found = {
            f"{page.address.partition('?')[0] or 'home'} · {page.control}": _rounds(
                browser, roots, home, page, arguments.rounds
            )
            for page in PAGES
            if page.address.startswith(arguments.only or "")
        }
        large = {} if arguments.only else app_large.measure(lambda: _window(browser), _serve, timed)
    _print(found, large, len(roots) > 1)
    if arguments.json:
        arguments.json.write_text(json.dumps({"pages": found, "large": large}, indent=1))


def _rounds(
    browser: Any, roots: list[Path], home: Path, page: Page, rounds: int
) -> list[list[Times]]:
    """Times per checkout and round; checkouts take turns."""
    found: list[list[Times]] = [[] for _ in roots]
    for _ in range(rounds):
        for place, root in enumerate(roots):
            with _serve(root, home) as (url, server):
                found[place].append(_once(browser, url, home, server, page))
    return found


def _latest_run(home: Path) -> str:
    return max(folder.name for folder in (home / "runs").iterdir() if folder.is_dir())


def _once(browser: Any, url: str, home: Path, server: psutil.Process, page: Page) -> Times:
    path, _, query = page.address.partition("?")
    address = f"{url}/{path}?task=reverse&{query.format(run=_latest_run(home))}"
    with _window(browser) as window:
        first, whole, cpu = timed(window, server, lambda: window.goto(address))
    with _window(browser) as window:
        _, warm, warm_cpu = timed(window, server, lambda: window.goto(address))
        redraw = redraw_cpu = float("nan")
        if page.use is not None:
            use = page.use
            _, redraw, redraw_cpu = timed(window, server, lambda: use(window))
    return Times(first, whole, warm, redraw, cpu, warm_cpu, redraw_cpu)


def timed(window: Any, server: psutil.Process, act: Callable[[], Any]) -> tuple[float, ...]:
    """Seconds to the first heading, to the last change, and of the server's processor."""
    before = _cpu(server)
    act()
    window.wait_for_function(_FINISHED, timeout=PATIENCE_MS, polling=50)
    seen = window.evaluate("window.seen")
    assert window.get_by_test_id("stException").count() == 0
    # Where nothing on the page changes, as with a filter that fits all, the end is told instead.
    last = seen["last"] if seen["last"] > seen["began"] else max(seen["ended"], seen["began"])
    return (
        seen["first"] / 1000,
        (last - seen["began"]) / 1000,
        _cpu(server) - before,
    )


def _cpu(server: psutil.Process) -> float:
    times = server.cpu_times()
    return times.user + times.system


@contextmanager
def _window(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    window = context.new_page()
    window.set_default_timeout(PATIENCE_MS)
    window.add_init_script(_WATCH)
    try:
        yield window
    finally:
        window.goto("about:blank")  # closes the session before its socket is torn down
        context.close()


@contextmanager
def _browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        _warm_up(browser)
        yield browser
        browser.close()


def _warm_up(browser: Any) -> None:
    """The browser's own start is not the app's."""
    context = browser.new_context()
    context.new_page().goto("data:text/html,<h1>warm</h1>")
    context.close()


@contextmanager
def _serve(root: Path, home: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A fresh server of a checkout, as soon as it says that it is healthy."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", f"--server.port={port}"]
    command += ["--server.headless=true", "--server.fileWatcherType=none"]
    environment = {**os.environ, "NUGGETS_HOME": str(home), "PYTHONPATH": str(root)}
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_healthy(url, process)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2):
                return
        except OSError:
            time.sleep(0.02)
    raise AssertionError("the server did not start")


@contextmanager
def _home(given: Path | None) -> Iterator[Path]:
    """The home given, or a new one in which the built-in models and one run are measured."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUGGETS_HOME": folder}
        for words in (["pairs", "--measure"], ["run", "quick"]):
            command = [sys.executable, "-m", "nuggets", *words]
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        yield Path(folder)


def _print(
    found: dict[str, list[list[Times]]], large: dict[str, tuple[float, ...]], ratios: bool
) -> None:
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    table = Table(
        title=f"median seconds (processor seconds of the server), {os.cpu_count()} cores, load "
        f"{load}" + (", × the other checkout" if ratios else ""),
        title_justify="left",
    )
    columns = ("page · control", "heading", "fresh", "warm", "redraw")
    for name in columns:
        table.add_column(name, justify="left" if name == columns[0] else "right")
    for name, checkouts in found.items():
        ours = _median(checkouts[0])
        other = _median(checkouts[1]) if ratios else None
        table.add_row(name, *(_cell(ours, other, *pair) for pair in _SHOWN))
    for name, (seconds, cpu) in large.items():
        table.add_row(name, "", "", "", f"{seconds:.2f} ({cpu:.2f})")
    Console(width=150).print(table)


_SHOWN = (("first", ""), ("whole", "cpu"), ("warm", "warm_cpu"), ("redraw", "redraw_cpu"))


def _cell(ours: Times, other: Times | None, clock: str, cpu: str) -> str:
    seconds = getattr(ours, clock)
    if seconds != seconds:
        return ""
    text = f"{seconds:.2f}" + (f" ({getattr(ours, cpu):.2f})" if cpu else "")
    if other is None:
        return text
    ratio = f" ×{seconds / getattr(other, clock):.2f}"
    return text + ratio + (f" (×{getattr(ours, cpu) / getattr(other, cpu):.2f})" if cpu else "")


def _median(rounds: list[Times]) -> Times:
    return Times(*(statistics.median(values) for values in zip(*rounds, strict=True)))


if __name__ == "__main__":
    main()
