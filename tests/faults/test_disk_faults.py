"""F5: a full or failing disk gives one sentence, no leftovers, and keeps the last commit."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nuggets.disk.commit import atomic_write, commit_folder, newest_valid
from nuggets.errors import NuggetsError
from nuggets.runs.context import RunContext
from nuggets.runs.events import EventLog, read_events
from nuggets.runs.schema import now
from nuggets.worker import run_in_foreground

DATA = b"x" * 5000


def fail_call(monkeypatch, name, at, number):
    """Makes the `at`-th call of `os.<name>` fail; gives the list that counts the calls."""
    real, calls = getattr(os, name), []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == at:
            if name == "write":  # a nearly full disk takes a part first
                real(args[0], bytes(args[1])[:3])
            raise OSError(number, os.strerror(number))
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, failing)
    return calls


def write_step(root, number):
    with commit_folder(root / f"step-{number}") as folder:
        for name in ("a.bin", "b.bin"):
            fd = os.open(folder / name, os.O_WRONLY | os.O_CREAT)
            try:
                os.write(fd, DATA)
            finally:
                os.close(fd)


def every_failure(name):
    """Fails the first, second, … call of one function until the action no longer makes it."""
    return [(name, at) for at in range(1, {"write": 3, "fsync": 6, "rename": 2}[name])]


POINTS = [
    *((name, at, errno.ENOSPC, "disk is full") for name, at in every_failure("write")),
    *((name, at, errno.EIO, "Input/output error") for name, at in every_failure("fsync")),
    *((name, at, errno.EIO, "Input/output error") for name, at in every_failure("rename")),
]


@pytest.mark.parametrize(("name", "at", "number", "words"), POINTS)
def test_a_failed_commit_says_why_and_keeps_the_last_one(
    tmp_path, monkeypatch, name, at, number, words
):
    write_step(tmp_path, 1)
    with monkeypatch.context() as patch:
        fail_call(patch, name, at, number)
        with pytest.raises(NuggetsError, match=words):
            write_step(tmp_path, 2)
    assert newest_valid(tmp_path, "step-") is not None
    assert not list(tmp_path.glob(".*"))
    # Only the sync of the parent comes after the rename: then the new commit is there, whole.
    last_sync = (name, at) == ("fsync", 5)
    assert newest_valid(tmp_path, "step-") == tmp_path / ("step-2" if last_sync else "step-1")


def test_the_points_above_are_all_there_are(tmp_path, monkeypatch):
    counts = {name: fail_call(monkeypatch, name, -1, 0) for name in ("write", "fsync", "rename")}
    write_step(tmp_path, 1)
    assert {name: len(calls) for name, calls in counts.items()} == {
        "write": 2,
        "fsync": 5,  # a.bin, b.bin, the manifest, the folder, its parent
        "rename": 1,
    }


@pytest.mark.parametrize(
    ("name", "at", "number"),
    [("write", 1, errno.ENOSPC), ("fsync", 1, errno.EIO), ("rename", 1, errno.EIO)],
)
def test_a_failed_replacement_keeps_the_old_file(tmp_path, monkeypatch, name, at, number):
    atomic_write(tmp_path / "record.json", "old")
    with monkeypatch.context() as patch:
        fail_call(patch, name, at, number)
        with pytest.raises(NuggetsError):
            atomic_write(tmp_path / "record.json", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]
    assert (tmp_path / "record.json").read_text() == "old"


def test_a_failed_append_leaves_no_part_of_its_line(tmp_path, monkeypatch):
    log = EventLog(tmp_path / "events.jsonl")
    log.append("log", "", "one", {})
    with monkeypatch.context() as patch:
        fail_call(patch, "write", 1, errno.ENOSPC)
        with pytest.raises(NuggetsError, match="disk is full"):
            log.append("log", "", "two", {})
    log.append("log", "", "three", {})
    log.close()
    events = read_events(tmp_path / "events.jsonl")
    assert [(e.seq, e.message) for e in events] == [(0, "one"), (1, "three")]


def test_a_body_that_fills_the_disk_is_told_so_whatever_it_raises(tmp_path):
    with (
        pytest.raises(NuggetsError, match=r"disk is full while writing .*step-1"),
        commit_folder(tmp_path / "step-1"),
    ):
        raise ValueError("Error while serializing: No space left on device (os error 28)")
    assert not list(tmp_path.iterdir())


def test_a_run_on_a_full_disk_is_never_stuck(toy, monkeypatch):
    run = toy()
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    context = monkeypatch.context()

    def fill(event):
        if event.type == "metric":
            patch = context.__enter__()
            patch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))

    try:
        with pytest.raises(NuggetsError, match="disk is full"):
            run_in_foreground(run, fill)
    finally:
        context.__exit__(None, None, None)
    assert run.status() == "interrupted"
    record = run_in_foreground(run, lambda event: None)
    assert (record.status, record.attempts) == ("done", 2)


def test_a_real_full_disk_keeps_the_last_commit(tmp_path):
    """On a tmpfs of 1 MB, in a mount namespace of its own."""
    script = (
        "import sys, pathlib\n"
        "from nuggets.errors import NuggetsError\n"
        "from nuggets.disk.commit import commit_folder, newest_valid\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "for number, size in ((1, 400_000), (2, 900_000)):\n"
        "    try:\n"
        "        with commit_folder(root / f'step-{number}') as folder:\n"
        "            (folder / 'a.bin').write_bytes(bytes(size))\n"
        "    except NuggetsError as error:\n"
        "        print('disk is full' in str(error))\n"
        "print(newest_valid(root, 'step-').name, sorted(p.name for p in root.iterdir()))\n"
    )
    mount = 'mount -t tmpfs -o size=1m tmpfs "$1" && exec "$2" -c "$3" "$1"'
    shell = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    try:
        result = subprocess.run(
            [*shell, tmp_path, sys.executable, script], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("this machine has no unshare")
    if "unshare" in result.stderr or "mount:" in result.stderr:
        pytest.skip(f"this machine does not allow mounts: {result.stderr.strip()}")
    assert result.stderr == ""
    assert result.stdout == "True\nstep-1 ['step-1']\n"


def test_an_event_with_a_foreign_value_is_refused_before_it_is_written(toy):
    ctx = RunContext(toy())
    with pytest.raises(ValueError, match="input was not a valid JSON value"):
        ctx.metric(when=now())
    assert ctx.run.events() == []
    ctx.close()
