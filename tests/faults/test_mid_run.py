"""F5, F10 and odd surroundings in the middle of a run: one sentence, and it goes on afterwards."""

import errno
import json
import os
import resource
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from nuggets.disk.home import runs_dir
from nuggets.disk.manifest import verify_folder
from nuggets.errors import NuggetsError
from nuggets.runs import context, events, launch, processes, schema
from nuggets.runs.store import RunStore
from nuggets.worker import run_in_foreground

HERE = Path(__file__).parent
LONG = 200
CALLS = {"write": errno.ENOSPC, "fsync": errno.EIO, "rename": errno.EIO}


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))


def result(run):
    verify_folder(run.folder / "artifacts" / "final")
    return (run.folder / "artifacts" / "final" / "adapter.bin").read_bytes()


def finish(run):
    return run_in_foreground(run, lambda event: None)


@pytest.fixture
def expected(toy):
    run = toy(steps=6)
    finish(run)
    return result(run)


def failing(monkeypatch, name, at, for_good):
    """Makes the `at`-th call of `os.<name>` fail, and all later ones; gives the calls' count."""
    real, calls = getattr(os, name), []

    def call(*given, **named):
        calls.append(1)
        if len(calls) == at or (for_good and len(calls) > at):
            raise OSError(CALLS[name], os.strerror(CALLS[name]))
        return real(*given, **named)

    monkeypatch.setattr(os, name, call)
    return calls


@pytest.mark.parametrize("name", CALLS)
def test_a_disk_that_fails_at_any_call_of_a_run_costs_that_attempt_alone(
    name, toy, expected, monkeypatch, rounds, counted
):
    with monkeypatch.context() as patch:
        calls = failing(patch, name, -1, False)
        finish(toy(steps=6))
    every = 1 if rounds >= LONG else max(1, len(calls) // 3)
    points = [(at, kept) for at in range(1, len(calls) + 1, every) for kept in (False, True)]
    tried = 0
    for at, for_good in points:
        run, said = toy(steps=6), ""
        with monkeypatch.context() as patch:
            calls = failing(patch, name, at, for_good)
            try:
                finish(run)
            except (NuggetsError, OSError) as refused:
                said = str(refused)
        if len(calls) < at:  # how often progress is written depends on how long it took
            continue
        tried += 1
        # Without a word only where all was done, and the lease alone could not be given back.
        all_done = (run.status(), said) == ("done", "")
        assert all_done or ("disk is full" if name == "write" else "Input/output") in said, at
        assert run.status() in ("created", "failed", "interrupted", "done"), (at, for_good)
        for manifest in run.folder.rglob("manifest.json"):
            if not any(part.startswith(".") for part in manifest.relative_to(run.folder).parts):
                verify_folder(manifest.parent)
        finish(run)
        assert (run.status(), result(run)) == ("done", expected), (at, for_good)
        assert not list(run.folder.rglob(".tmp-*"))
    counted("F5", f"{errno.errorcode[CALLS[name]]} at {name} in the middle of a run", tried)
    assert tried >= 4


@pytest.mark.parametrize("days", [1, -1])
@pytest.mark.parametrize("what", ["times written", "times of files", "between attempts", "all"])
def test_a_clock_that_jumps_changes_no_order_and_no_result(
    what, days, toy, expected, monkeypatch, counted
):
    jump, ticks = timedelta(days=days), []

    def jumping():
        ticks.append(1)
        return schema.now() + jump * (len(ticks) % 2)

    run = toy(steps=6)
    if what in ("times written", "all"):
        monkeypatch.setattr(events, "now", jumping)
        monkeypatch.setattr(context, "now", jumping)

    def stop(event):  # when the checkpoint of step 5 is there
        if event.data.get("step") == 5:
            run.request_cancel()

    with pytest.raises(NuggetsError):
        run_in_foreground(run, stop)
    if what in ("times of files", "all"):
        for path in run.folder.rglob("*"):
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime + jump.total_seconds()))
    if what in ("between attempts", "all"):
        monkeypatch.setattr(context, "now", lambda: schema.now() + jump)
    finish(run)
    assert result(run) == expected
    assert [event.seq for event in run.events()] == list(range(len(run.events())))
    assert run.record().attempts == 2
    counted("F10", "the clock jumps by a day", 1)


def limits(**most):
    """Sets limits in a child, as `ulimit` does."""

    def lower():
        for name, value in most.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))

    return lower


def worker(run, lower=None, **environment):
    command = [sys.executable, "-m", "nuggets.worker", str(run.folder)]
    return subprocess.run(command, preexec_fn=lower, env={**os.environ, **environment}).returncode


def test_a_file_size_limit_is_one_sentence_and_no_damage(toy, expected, counted):
    run = toy(steps=6)
    assert worker(run, limits(FSIZE=12_000)) == 1
    assert run.status() == "failed"
    assert "File too large" in run.record().error.message
    assert worker(run) == 0
    assert result(run) == expected
    counted("F5", "ulimit -f", 1)


def test_64_open_files_are_enough_for_a_run_and_a_list(toy, expected, counted):
    runs = [toy(steps=6) for _ in range(70)]
    assert worker(runs[0], limits(NOFILE=64)) == 0
    assert result(runs[0]) == expected
    command = [sys.executable, "-m", "nuggets", "list", "--json"]
    listed = subprocess.run(
        command, preexec_fn=limits(NOFILE=64), capture_output=True, check=True
    ).stdout
    assert len(json.loads(listed)) == 71  # and the one that is expected
    counted("F5", "ulimit -n 64", 2)


@pytest.mark.parametrize("megabytes", [60, 150])
def test_too_little_address_space_is_one_sentence(megabytes, store, counted):
    ended = subprocess.run(
        [sys.executable, "-m", "nuggets", "plan", "quick"],
        preexec_fn=limits(AS=megabytes * 10**6),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert "Details are in" in ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr
    counted("F8", "ulimit -v", 1)


@pytest.mark.parametrize("name", ["with spaces", "Größe 雪 ☃", "quo'te \"$(x)"])
def test_a_home_of_any_name_works(name, tmp_path, monkeypatch, expected, counted):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / name))
    run = RunStore(runs_dir()).create("toy", json.dumps({"steps": 6}), "toy")
    launch.start(run)
    processes.children[-1].wait(timeout=120)
    assert result(run) == expected
    counted("F5", "homes with odd names", 1)


def test_without_home_in_the_environment_the_home_is_found(tmp_path, counted):
    environment = {"PATH": os.environ["PATH"], "XDG_DATA_HOME": str(tmp_path)}
    environment |= {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    command = [sys.executable, "-m", "nuggets", "list", "--json"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[]\n", "")
    counted("F5", "HOME unset", 1)


def test_a_home_that_cannot_be_written_is_read_and_refuses_in_one_sentence(toy, tmp_path, counted):
    run = toy(steps=6)
    finish(run)
    script = (
        'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && '
        '"$2" -m nuggets list && "$2" -m nuggets start quick'
    )
    shell = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    try:
        ended = subprocess.run(
            [*shell, tmp_path / "home", sys.executable], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("this machine has no unshare")
    if "unshare" in ended.stderr or "mount:" in ended.stderr:
        pytest.skip(f"this machine does not allow mounts: {ended.stderr.strip()}")
    assert run.id[:15] in ended.stdout
    assert ended.returncode == 1
    assert "Read-only file system" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    counted("F5", "a home on a disk that is read-only", 1)
