import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuggets.disk.commit import (
    atomic_write,
    commit_folder,
    newest_valid,
    remove_folder,
    sweep_temps,
)
from nuggets.disk.manifest import verify_folder
from nuggets.errors import Damaged, NuggetsError

FILES = {"a.bin": b"\x00\x01weights", "sub/b.txt": b"text", "empty": b""}


def commit(final, files=FILES):
    with commit_folder(final) as folder:
        for name, data in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
    return final


def pad(path):
    path.write_bytes(path.read_bytes() + b" ")  # JSON reads the same


def test_a_committed_folder_holds_what_was_written_and_verifies(tmp_path):
    final = commit(tmp_path / "deep" / "er" / "step-1")
    verify_folder(final)
    assert {name: (final / name).read_bytes() for name in FILES} == FILES
    assert [p.name for p in final.parent.iterdir()] == ["step-1"]


def test_nothing_is_listed_before_the_block_ends(tmp_path):
    with commit_folder(tmp_path / "step-1") as folder:
        (folder / "a").write_text("x")
        assert newest_valid(tmp_path, "step-") is None
        assert not (tmp_path / "step-1").exists()
    assert newest_valid(tmp_path, "step-") == tmp_path / "step-1"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_block_leaves_nothing(tmp_path, error):
    def fail(folder):
        (folder / "a").write_text("x")
        raise error

    with pytest.raises(error), commit_folder(tmp_path / "step-1") as folder:
        fail(folder)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_never_overwritten(tmp_path):
    commit(tmp_path / "step-1")
    with pytest.raises(NuggetsError, match="already exists"):
        commit(tmp_path / "step-1", {"other": b""})
    verify_folder(tmp_path / "step-1")
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]


def test_a_folder_that_appears_during_the_block_is_not_overwritten(tmp_path):
    with (
        pytest.raises(NuggetsError, match="already exists"),
        commit_folder(tmp_path / "step-1"),
    ):
        (tmp_path / "step-1").mkdir()
    assert not list((tmp_path / "step-1").iterdir())


def test_everything_is_synced_before_the_rename_and_the_parent_after(tmp_path, monkeypatch):
    events, paths = [], {}
    real_open, real_sync, real_rename = os.open, os.fsync, os.rename

    def spy_open(path, *args, **kwargs):
        fd = real_open(path, *args, **kwargs)
        paths[fd] = os.fspath(path)
        return fd

    def spy_rename(source, target, **kwargs):
        events.append("RENAME")
        real_rename(source, target, **kwargs)

    def spy_sync(fd):
        events.append(Path(paths[fd]).name)
        real_sync(fd)

    monkeypatch.setattr(os, "open", spy_open)
    monkeypatch.setattr(os, "fsync", spy_sync)
    monkeypatch.setattr(os, "rename", spy_rename)
    commit(tmp_path / "step-1")
    before, after = events[: events.index("RENAME")], events[events.index("RENAME") + 1 :]
    assert sorted(before[:-1]) == ["a.bin", "b.txt", "empty", "manifest.json", "sub"]
    assert before[-1].startswith(".tmp-step-1")
    assert after == [tmp_path.name]
    events.clear()
    atomic_write(tmp_path / "file", "x")
    assert [e.split("-")[0] for e in events] == [".tmp", "RENAME", tmp_path.name.split("-")[0]]


@settings(max_examples=100)
@given(data=st.data())
def test_any_flipped_or_missing_byte_is_found(tmp_path_factory, data):
    final = commit(tmp_path_factory.mktemp("flips") / "step-1")
    names = [*FILES, "manifest.json"]
    path = final / data.draw(st.sampled_from([n for n in names if n != "empty"]))
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans(), label="truncate"):
        content = content[:position]
    else:
        content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(Damaged) as caught:
        verify_folder(final)
    assert path.name in str(caught.value) or path.name == "manifest.json"
    assert newest_valid(final.parent, "step-") is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "a.bin").unlink(), "'a.bin' is missing"),
        (lambda f: (f / "sub" / "extra").touch(), "'sub/extra' was added"),
        (lambda f: (f / "manifest.json").unlink(), "No such file"),
        (lambda f: (f / "link").symlink_to("/etc"), "'link' was added"),
        (lambda f: (f / "manifest.json").write_text("[" * 9999), "is not a manifest"),
        (lambda f: (f / "manifest.json").write_text('{"sha256": 3}'), "was changed"),
        (lambda f: pad(f / "manifest.json"), "was changed"),
    ],
)
def test_a_changed_folder_is_refused_naming_the_file(tmp_path, change, words):
    final = commit(tmp_path / "step-1")
    change(final)
    with pytest.raises(Damaged, match=words):
        verify_folder(final)


def test_a_link_is_neither_committed_nor_accepted_for_the_file_it_replaces(tmp_path):
    with (
        pytest.raises(NuggetsError, match=r"'link' in .* is not a plain file"),
        commit_folder(tmp_path / "step-1") as folder,
    ):
        (folder / "link").symlink_to("/etc/hostname")
    final = commit(tmp_path / "step-2")
    (tmp_path / "outside").write_bytes(FILES["a.bin"])
    (final / "a.bin").unlink()
    (final / "a.bin").symlink_to(tmp_path / "outside")
    with pytest.raises(Damaged, match=r"a\.bin"):
        verify_folder(final)


def test_the_newest_is_the_greatest_number_that_verifies(tmp_path):
    for number in (9, 100, 20):
        commit(tmp_path / f"step-{number}")
    for name in ("step-999x", "other-500", ".tmp-step-700"):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / "step-9")  # the clock does not matter
    assert newest_valid(tmp_path, "step-") == tmp_path / "step-100"
    (tmp_path / "step-100" / "a.bin").write_bytes(b"")
    assert newest_valid(tmp_path, "step-") == tmp_path / "step-20"
    assert newest_valid(tmp_path / "nowhere", "step-") is None


def test_only_the_temporaries_of_the_dead_are_swept(tmp_path):
    script = "import sys, os, pathlib; from nuggets.disk.commit import commit_folder\n"
    script += "with commit_folder(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "dead")])
    (tmp_path / ".tmp-record.json-1234").touch()
    (tmp_path / ".trash-run-1234").mkdir()
    assert len(list(tmp_path.glob(".*"))) == 3
    with commit_folder(tmp_path / "alive") as folder:
        sweep_temps(tmp_path)
        assert list(tmp_path.iterdir()) == [folder]
    verify_folder(tmp_path / "alive")


def test_a_recursive_sweep_reaches_folders_below(tmp_path):
    (tmp_path / "a" / "b" / ".tmp-x-1").mkdir(parents=True)
    sweep_temps(tmp_path)
    assert (tmp_path / "a" / "b" / ".tmp-x-1").exists()
    sweep_temps(tmp_path, recursive=True)
    assert not list((tmp_path / "a" / "b").iterdir())


def test_a_swept_link_leaves_its_target_alone(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / ".trash-x").symlink_to(tmp_path / "kept")
    sweep_temps(tmp_path)
    assert (tmp_path / "kept").is_dir()


def test_a_removed_folder_is_gone(tmp_path):
    remove_folder(commit(tmp_path / "step-1"))
    assert not list(tmp_path.iterdir())


def test_replacing_a_file_in_a_missing_folder_says_so(tmp_path):
    with pytest.raises(NuggetsError, match=r"Could not write .*record\.json: No such file"):
        atomic_write(tmp_path / "nowhere" / "record.json", "x")
