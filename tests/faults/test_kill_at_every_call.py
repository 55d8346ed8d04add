"""F1: SIGKILL at each system call leaves the old state or the new one, and nothing else listed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nuggets.disk.commit import newest_valid, sweep_temps
from nuggets.disk.manifest import verify_folder
from nuggets.runs.events import EventLog, read_events
from nuggets.runs.store import RunStore

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="traces system calls with ptrace")
HARNESS = Path(__file__).parent / "kill_at_call.py"


@pytest.fixture
def cases(tmp_path, counted):
    """Runs a scenario; gives (folder, acknowledged) of every case."""

    def run(scenario):
        result = subprocess.run([sys.executable, HARNESS, scenario, tmp_path], timeout=120)
        if result.returncode == 77:
            pytest.skip("this machine does not allow ptrace")
        assert result.returncode == 0
        folders = sorted(tmp_path.glob("case-*[0-9]"), key=lambda p: int(p.name[5:]))
        found = [(f, f.with_suffix(".acknowledged").stat().st_size > 0) for f in folders]
        assert len(found) > 5
        assert found[-1][1]
        counted("F1", f"SIGKILL at each system call: {scenario}", len(found) - 1)
        return found

    return run


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_killed_commit_leaves_the_old_step_or_the_new_one(cases):
    outcomes = set()
    for folder, acknowledged in cases("commit"):
        newest = newest_valid(folder, "step-")
        assert newest is not None
        outcomes.add(newest.name)
        assert newest.name == "step-2" or not acknowledged
        for listed in folder.glob("step-*"):
            verify_folder(listed)
        sweep_temps(folder)
        assert names(folder) == ["step-1", "step-2"][: 1 + (newest.name == "step-2")]
    assert outcomes == {"step-1", "step-2"}


def test_a_killed_replacement_leaves_the_old_content_or_the_new(cases):
    outcomes = set()
    for folder, acknowledged in cases("file"):
        content = (folder / "record.json").read_text()
        outcomes.add(content)
        assert content == "new" * 100 or not acknowledged
        sweep_temps(folder)
        assert names(folder) == ["record.json"]
    assert outcomes == {"old" * 100, "new" * 100}


def test_a_killed_append_leaves_a_prefix_that_can_be_continued(cases):
    outcomes = set()
    for folder, acknowledged in cases("events"):
        path = folder / "events.jsonl"
        words = [event.message for event in read_events(path)]
        outcomes.add(len(words))
        assert words == ["one", "two", "three"][: len(words)]
        assert len(words) == 3 or not acknowledged
        log = EventLog(path)
        log.append("log", "", "next", {})
        log.close()
        assert [event.seq for event in read_events(path)] == list(range(len(words) + 1))
    assert outcomes == {1, 2, 3}


def test_a_killed_creation_lists_a_whole_run_or_none(cases):
    outcomes = set()
    for folder, acknowledged in cases("create"):
        runs = RunStore(folder).list()
        outcomes.add(len(runs))
        assert len(runs) == 1 or not acknowledged
        assert [run.status() for run in runs] == ["created"] * len(runs)
        assert [json.loads(run.recipe_text()) for run in runs] == [{}] * len(runs)
        sweep_temps(folder)
        # The folder remembers texts, which may outlive or precede the runs made of them.
        assert [name for name in names(folder) if name != ".own"] == [run.id for run in runs]
    assert outcomes == {0, 1}


def test_a_killed_removal_leaves_all_or_nothing(cases):
    outcomes = set()
    for folder, acknowledged in cases("remove"):
        newest = newest_valid(folder, "step-")
        outcomes.add(newest is None)
        assert newest is None or not acknowledged
        sweep_temps(folder)
        assert names(folder) == ([] if newest is None else ["step-1"])
    assert outcomes == {True, False}
