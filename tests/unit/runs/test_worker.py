import os
import signal
import subprocess
import sys
import threading

import pytest

from nuggets import worker
from nuggets.disk.home import cache_dir, device_lock_path, nuggets_home
from nuggets.disk.locks import is_held
from nuggets.errors import BadInput, Cancelled, NonFinite, OutOfMemory, RunBusy
from nuggets.runs import launch, processes
from nuggets.runs.engines.base import EngineBase


def test_a_foreground_run_holds_run_and_device_and_ends_done(run, pipeline):
    seen = []

    def execute(given, ctx):
        seen.append((given.status(), is_held(run.lock_path), is_held(device_lock_path("cpu"))))
        ctx.stage("train")

    pipeline(execute)
    events = []
    record = worker.run_in_foreground(run, events.append)
    assert seen == [("running", True, True)]
    assert not is_held(run.lock_path)
    assert not is_held(device_lock_path("cpu"))
    assert (record.status, record.attempts, record.error) == ("done", 1, None)
    assert record.started <= record.finished
    assert [e.message for e in events] == ["queued", "running", "train", "done"]


def test_a_done_run_is_not_worked_on_again(run, pipeline):
    calls = []
    pipeline(lambda run, ctx: calls.append(1))
    for _ in range(2):
        assert worker.run_in_foreground(run, lambda event: None).status == "done"
    assert calls == [1]


@pytest.mark.parametrize(
    ("error", "code"),
    [(NonFinite("The loss is nan."), 1), (BadInput("No such file."), 2), (KeyError("bug"), 1)],
)
def test_a_failure_is_recorded_logged_and_raised_as_it_is(run, pipeline, error, code):
    cause = OSError("the cause")

    def execute(run, ctx):
        raise error from cause

    pipeline(execute)
    with pytest.raises(type(error)) as caught:
        worker.run_in_foreground(run, lambda event: None)
    assert caught.value.__cause__ is cause
    recorded = run.record()
    assert (recorded.status, run.status()) == ("failed", "failed")
    unforeseen = (
        f"Something unforeseen went wrong (KeyError: 'bug'). Details are in {run.log_path}."
    )
    message = unforeseen if isinstance(error, KeyError) else str(error)
    assert recorded.error.model_dump() == {
        "type": type(error).__name__,
        "message": message,
        "exit_code": code,
    }
    assert "Traceback" in run.log_tail()
    assert "the cause" in run.log_tail()
    assert run.events()[-1].message == message


def test_memory_that_ran_out_is_recorded_as_such(run, pipeline):
    def execute(run, ctx):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 4 bytes")

    pipeline(execute)
    with pytest.raises(OutOfMemory, match="nuggets preflight"):
        worker.run_in_foreground(run, lambda event: None)
    assert run.record().error.type == "OutOfMemory"
    assert "can't allocate memory" in run.record().error.message


def test_a_token_in_an_error_reaches_neither_record_nor_log(run, pipeline):
    token = "hf_" + "X" * 20

    def execute(run, ctx):
        raise ValueError(f"the header was Bearer {token}")

    pipeline(execute)
    with pytest.raises(ValueError, match="header"):
        worker.run_in_foreground(run, lambda event: None)
    kept = [file.read_bytes() for file in run.folder.rglob("*") if file.is_file()]
    assert not [data for data in kept if token.encode() in data]
    assert "hf_…" in run.record().error.message


def test_a_requested_cancel_ends_the_run_and_does_not_outlive_it(run, pipeline):
    def execute(run, ctx):
        if ctx.run.record().attempts == 1:
            run.request_cancel()
        ctx.check_cancelled()

    pipeline(execute)
    with pytest.raises(Cancelled):
        worker.run_in_foreground(run, lambda event: None)
    assert run.status() == "cancelled"
    assert not run.cancel_requested()
    assert worker.run_in_foreground(run, lambda event: None).status == "done"


def test_a_request_that_an_ended_attempt_left_behind_does_not_stop_the_next(run, pipeline):
    pipeline(lambda run, ctx: ctx.check_cancelled())
    run.record_path.write_text(run.record().changed(status="cancelled").model_dump_json())
    run.request_cancel()  # its worker was killed after it recorded the end
    assert worker.run_in_foreground(run, lambda event: None).status == "done"


def test_whoever_sees_the_end_has_all_events_to_read(run, pipeline):
    pipeline(lambda run, ctx: None)
    shown = {}
    worker.run_in_foreground(run, lambda event: shown.update({event.message: run.status()}))
    assert shown == {"queued": "queued", "running": "queued", "done": "running"}


def test_a_cancel_before_the_start_is_honoured(run, pipeline):
    pipeline(lambda run, ctx: pytest.fail("it was cancelled before"))
    assert launch.cancel(run) == "created"
    with pytest.raises(Cancelled):
        worker.run_in_foreground(run, lambda event: None)


def test_ctrl_c_asks_once_and_interrupts_the_second_time(run, pipeline):
    handler = signal.getsignal(signal.SIGINT)

    def execute(run, ctx):
        os.kill(os.getpid(), signal.SIGINT)
        ctx.log("still here")
        os.kill(os.getpid(), signal.SIGINT)
        ctx.log("never written")

    pipeline(execute)
    with pytest.raises(Cancelled, match="cancelled on request"):
        worker.run_in_foreground(run, lambda event: None)
    assert [e.message for e in run.events() if e.type == "log"] == ["still here"]
    assert run.status() == "cancelled"
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_foreground_run_works_outside_the_main_thread(run, pipeline):
    pipeline(lambda run, ctx: None)
    thread = threading.Thread(target=worker.run_in_foreground, args=(run, lambda event: None))
    thread.start()
    thread.join()
    assert run.status() == "done"


def test_an_owned_run_is_refused(run, pipeline):
    pipeline(lambda run, ctx: pytest.fail("somebody else owns it"))
    with run.owned(), pytest.raises(RunBusy, match="belongs to another process"):
        worker.run_in_foreground(run, lambda event: None)
    assert run.status() == "created"


def test_what_the_pipeline_prints_goes_to_the_log_of_a_worker(run, tmp_path, monkeypatch):
    (tmp_path / "printing_pipeline.py").write_text(
        "import os, sys\n"
        "def execute(run, ctx):\n"
        "    print('from python')\n"
        "    os.write(2, b'from C\\n')\n"
        "    sys.exit(0)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("NUGGETS_PIPELINE", "printing_pipeline:execute")
    command = [sys.executable, "-m", "nuggets.worker", str(run.folder)]
    result = subprocess.run(command, capture_output=True)
    assert (result.returncode, result.stdout, result.stderr) == (1, b"", b"")
    assert "from python" in run.log_tail()
    assert "from C" in run.log_tail()
    assert run.record().error.type == "SystemExit"


def test_the_log_of_a_library_that_prints_for_ever_stays_small(run, tmp_path, monkeypatch):
    """It tells no progress and takes no step meanwhile."""
    (tmp_path / "chatty_pipeline.py").write_text(
        "import time\n"
        "from nuggets.disk import last_frame\n"
        "def execute(run, ctx):\n"
        "    last_frame.MAX_LOG_BYTES, end = 4000, time.monotonic() + 60\n"
        "    for number in range(400):\n"
        "        print('line', number, 'x' * 90, flush=True)\n"
        "    while run.log_path.stat().st_size > 4000 and time.monotonic() < end:\n"
        "        time.sleep(0.01)\n"
        "    assert run.log_path.stat().st_size <= 4000\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("NUGGETS_PIPELINE", "chatty_pipeline:execute")
    command = [sys.executable, "-m", "nuggets.worker", str(run.folder)]
    assert subprocess.run(command).returncode == 0, run.log_tail()
    assert run.log_tail().splitlines()[-1].startswith("line 399 ")
    assert run.log_path.stat().st_size > 1900


@pytest.mark.parametrize("arguments", [[], ["nowhere"], ["a", "b"]])
def test_a_worker_without_a_run_folder_says_how_to_call_it(arguments, capsys):
    assert worker.main(arguments) == 2
    assert "Usage: python -m nuggets.worker RUN_FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "action", "words"),
    [
        ("done", launch.start, "is done. Start a new run"),
        ("done", launch.resume, "is done. Start a new run"),
        ("failed", launch.start, "is failed. Resume it"),
        ("running", launch.start, "is interrupted. Resume it"),
        ("done", launch.cancel, "is done, so there is nothing to cancel"),
    ],
)
def test_a_launch_that_makes_no_sense_is_refused_saying_what_to_do(run, status, action, words):
    run.record_path.write_text(run.record().changed(status=status).model_dump_json())
    with pytest.raises(BadInput, match=words):
        action(run)
    assert run.record().attempts == 0


def test_a_run_that_its_starter_left_behind_is_resumed_whatever_was_asked_of_it(run):
    launch.cancel(run)
    begun = []

    class Engine(EngineBase):
        def start(self, run):
            begun.append(run.cancel_requested())

    launch.resume(run, Engine.model_construct())
    assert begun == [False]


def test_a_damaged_run_is_not_launched_and_says_why(run):
    run.record_path.write_text("{")
    with pytest.raises(BadInput, match=r"is damaged\. .*record\.json cannot be read"):
        launch.resume(run)


def test_relative_paths_of_the_environment_keep_their_meaning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NUGGETS_HOME", "home")
    monkeypatch.setenv("PYTHONPATH", f"lib{os.pathsep}/abs{os.pathsep}")
    monkeypatch.setenv("OTHER", "kept")
    environment = os.environ | processes.environment()
    assert environment["NUGGETS_HOME"] == str(tmp_path / "home")
    assert environment["PYTHONPATH"].split(os.pathsep) == [
        str(tmp_path / "lib"),
        "/abs",
        str(tmp_path),
    ]
    assert environment["OTHER"] == "kept"


def test_home_defaults_to_the_platforms_data_folder(monkeypatch):
    monkeypatch.delenv("NUGGETS_HOME", raising=False)
    assert nuggets_home().name == "nuggets"
    assert cache_dir().parent == nuggets_home()


def test_the_ui_side_imports_no_heavy_package():
    script = (
        "import sys, nuggets.runs.launch, nuggets.runs.store, nuggets.worker\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout == "[]\n"
