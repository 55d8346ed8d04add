"""Pages in a fresh home, with the built-in pairs, a known machine and workers that only pretend."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from nuggets import api
from nuggets.compute.device import DeviceInfo
from nuggets.compute.speed import Speed
from nuggets.compute.versions import installed_versions
from nuggets.disk import last_frame
from nuggets.errors import NuggetsError
from nuggets.planning.machine import Doctor
from nuggets.runs import processes
from nuggets.ui.frame import waiting

ROOT = Path(__file__).parents[2]
FOLDED = ("recipe-export", "sweep-export", "sweep-files")
"""Parts of pages that are written when they are opened; tests read them."""
ROUTER = ROOT / "nuggets" / "ui" / "router.py"

HOSTILE = (
    '<img src=x onerror="alert(1)"> **bold** [link](http://evil.example) :red[red] $x^2$ `code` # h'
)
"""What must never be read as HTML or Markdown."""


def foreseen(error: BaseException, log: Path | None = None) -> str:
    """In place of the last frame, so that no test of a page passes on its sentence."""
    if isinstance(error, NuggetsError):
        return str(error)
    raise error


@pytest.fixture(autouse=True, scope="session")
def components() -> Iterator[None]:
    """Every `AppTest` looks through all installed packages for components; they stay the same."""
    scan = functools.cache(manifest_scanner.scan_component_manifests)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_scanner, "scan_component_manifests", scan)
        yield


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty NUGGETS_HOME on a machine with one CPU; workers run `app_pipeline`."""
    folder = tmp_path / "home"
    monkeypatch.setenv("NUGGETS_HOME", str(folder))
    monkeypatch.setenv("NUGGETS_PIPELINE", "app_pipeline:execute")
    monkeypatch.setenv("NUGGETS_SPEAKERS", "fake_speakers:Speakers")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setattr(last_frame, "sentence", foreseen)
    monkeypatch.setattr(waiting, "PATIENCE_S", 60.0)  # nobody ticks the page while it waits
    cpu = DeviceInfo(name="cpu", label="A processor", memory_total=8 * 2**30, memory_free=2**32)
    speed = Speed(device="cpu", flops={"float32": 1e11}, bandwidth=1e10, call=1e-6)
    known = Doctor(
        versions=installed_versions(), devices=(cpu,), speeds=(speed,), cores=2, home=str(folder)
    )
    (folder / "cache").mkdir(parents=True)
    (folder / "cache" / "doctor.json").write_text(known.model_dump_json())
    yield folder
    for run in api.runs():
        if run.status() in api.LIVE:
            run.request_cancel()
    api.playground.free(wait=120)
    for child in processes.children:
        child.wait(timeout=120)


@pytest.fixture
def open_page() -> Callable[..., AppTest]:
    """`open_page("transfer", run=…)`: the app at an address, drawn once, without exceptions."""

    def opened(name: str = "home", **query: str) -> AppTest:
        at = AppTest.from_file(str(ROUTER), default_timeout=120)
        for key, value in query.items():
            at.query_params[key] = value
        for key in FOLDED:
            at.session_state[key] = True
        if name != "home":
            at.switch_page(os.path.relpath(ROOT / "pages" / f"{name}.py", ROUTER.parent))
        at.run()
        assert not at.exception, at.exception
        return at

    return opened


@pytest.fixture
def wait_for() -> Callable[..., None]:
    """`wait_for(run, "done")`: until a worker has brought a run there."""

    def wait(run: api.Run, *statuses: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while run.status() not in statuses:
            assert time.monotonic() < deadline, f"{run.id} is {run.status()}: {run.log_tail()}"
            time.sleep(0.05)

    return wait


def shown(at: AppTest) -> str:
    """Everything on the page that is shown as plain text or code."""
    return "\n".join(str(part.value) for part in [*at.text, *at.code])


def rendered(at: AppTest) -> str:
    """Everything on the page that Streamlit reads as Markdown, labels included."""
    marked = [str(part.value) for part in [*at.markdown, *at.caption, *at.title, *at.subheader]]
    widgets = [*at.button, *at.selectbox, *at.text_input, *at.number_input, *at.multiselect]
    return "\n".join([*marked, *(widget.label for widget in widgets)])
