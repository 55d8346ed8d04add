"""A request to stop is answered in steps, imports and libraries alike, by signal and by file."""

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from types import SimpleNamespace

import pytest

from nuggets import worker
from nuggets.errors import Cancelled
from nuggets.runs import launch, processes, stopping
from nuggets.runs.stopping import stoppable

FOREVER = 600
HANGING = {
    "an import": f"print('here', flush=True)\nimport time\ntime.sleep({FOREVER})\n",
    "a step": f"def execute(run, ctx):\n    print('here', flush=True)\n    import time\n"
    f"    time.sleep({FOREVER})\n",
    # Like one product of large matrices: no Python handler runs before its end.
    "a library": "def execute(run, ctx):\n    print('here', flush=True)\n    import hashlib\n"
    f"    hashlib.pbkdf2_hmac('sha256', b'', b'', {FOREVER} * 10**6)\n",
}


@pytest.fixture
def hanging(tmp_path, monkeypatch):
    """Makes work that does not end the pipeline of every worker."""

    def use(where):
        (tmp_path / "hanging.py").write_text(HANGING[where])
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        monkeypatch.setenv("NUGGETS_PIPELINE", "hanging:execute")

    return use


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("where", "asked"),
    [
        ("an import", "cancel"),
        ("a step", "SIGTERM"),
        ("a library", "cancel"),
        ("a library", "SIGTERM"),
    ],
)
def test_a_worker_is_cancelled_wherever_it_is(run, hanging, where, asked):
    hanging(where)
    launch.start(run)
    until(lambda: "here" in run.log_tail())
    child = processes.children[-1]
    if asked == "cancel":
        assert launch.cancel(run, wait=60) == "cancelled"
    else:
        child.send_signal(signal.SIGTERM)
    child.wait(timeout=60)
    record = run.record()
    assert (run.status(), record.error.type) == ("cancelled", "Cancelled")
    assert "resume it to continue" in record.error.message
    assert run.events()[-1].data == {"status": "cancelled"}
    assert not run.cancel_requested()


@pytest.mark.parametrize("where", ["an import", "a library"])
def test_ctrl_c_of_nuggets_run_leaves_no_process_and_one_sentence(run, hanging, where):
    hanging(where)
    code = (
        "import sys\nfrom nuggets import api, worker\nfrom nuggets.cli.main import main\n"
        "api.load_recipe = lambda *given: None\n"
        f"api.run = lambda job, on_event: worker.run_in_foreground(api.open_run({run.id!r}),"
        " on_event)\nsys.argv = ['nuggets', 'run', 'quick']\nmain()\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, **pipes)
    assert child.stdout.readline() == "here\n"
    os.killpg(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert out == ""
    assert err in ("Stopped on request.\n", f"{run.record().error.message}\n")
    assert run.status() == "cancelled"
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)


def test_any_command_ends_at_ctrl_c_inside_a_library():
    code = (
        "import hashlib, sys\nfrom nuggets import api\nfrom nuggets.cli.main import main\n"
        "def forever():\n    print('here', flush=True)\n"
        f"    hashlib.pbkdf2_hmac('sha256', b'', b'', {FOREVER} * 10**6)\n"
        "api.runs = forever\nsys.argv = ['nuggets', 'list']\nmain()\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    child = subprocess.Popen([sys.executable, "-c", code], **pipes)
    assert child.stdout.readline() == "here\n"
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=60) == ("", "Stopped on request.\n")
    assert child.returncode == 1


def test_work_that_swallows_an_interrupt_is_interrupted_again(run, pipeline):
    swallowed = []

    def execute(run, ctx):
        run.request_cancel()
        for _ in range(5):
            try:
                time.sleep(FOREVER)
            except KeyboardInterrupt:
                swallowed.append(1)
                if len(swallowed) == stopping.INTERRUPTS + 2:
                    raise

    pipeline(execute)
    with pytest.raises(Cancelled):
        worker.run_in_foreground(run, lambda event: None)
    # It went on asking, and did not end this process, which is not its own.
    assert len(swallowed) == stopping.INTERRUPTS + 2
    assert run.status() == "cancelled"


def test_work_that_stops_at_its_next_step_is_not_interrupted(run, pipeline):
    steps = []

    def execute(run, ctx):
        run.request_cancel()
        try:
            ctx.check_cancelled()
        finally:
            steps.append("closed")

    pipeline(execute)
    with pytest.raises(Cancelled) as ended:
        worker.run_in_foreground(run, lambda event: None)
    assert steps == ["closed"]
    assert ended.value.__cause__ is None


def test_no_interrupt_is_raised_where_python_would_print_it_and_go_on():
    """In a callback of a weak reference, that is; the watch sends another one."""
    told, callback = [], SimpleNamespace(f_globals=vars(weakref))
    watch = stopping._Watch(lambda: told.append("ask"), lambda: False, lambda: None)
    for frame in (callback, callback, callback):
        watch.on_signal(signal.SIGINT, frame)
    assert told == ["ask"]
    with pytest.raises(KeyboardInterrupt):
        watch.on_signal(signal.SIGINT, sys._getframe())


def interrupted():
    with stoppable(lambda: None):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(FOREVER)


def test_nothing_of_the_watch_is_left_behind():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    woken = signal.set_wakeup_fd(-1)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(woken) == -1
    assert "nuggets-stopping" not in [thread.name for thread in threading.enumerate()]
