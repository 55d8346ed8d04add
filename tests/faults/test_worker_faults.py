"""F2, F4, F6, F10: workers that are killed, stopped, raced or orphaned."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from nuggets.disk.home import device_lock_path
from nuggets.disk.locks import Lock
from nuggets.disk.manifest import verify_folder
from nuggets.errors import BadInput, NuggetsError, RunBusy
from nuggets.runs import launch

LONG = 200
"""Rounds of `make faults`."""


def artifact(run):
    verify_folder(run.folder / "artifacts" / "final")
    return (run.folder / "artifacts" / "final" / "adapter.bin").read_bytes()


def attempts(run):
    return len((run.folder / "attempts.txt").read_text().split())


def test_kill_9_at_random_moments_changes_no_byte_of_the_result(
    toy, until, worker_pid, rounds, counted
):
    steps = 15 * rounds
    undisturbed, run = toy(steps=steps), toy(steps=steps, sleep=0.005)
    launch.start(undisturbed)
    until(lambda: undisturbed.status() == "done", timeout=60 + rounds)
    dice = random.Random(7)
    launch.start(run)
    for _ in range(rounds):
        time.sleep(dice.uniform(0, 0.12))
        os.kill(worker_pid(run), signal.SIGKILL)  # fails if the run ended before the last kill
        until(lambda: run.status() == "interrupted")
        launch.resume(run)
    until(lambda: run.status() == "done", timeout=60 + rounds)
    assert artifact(run) == artifact(undisturbed)
    assert run.record().attempts == rounds + 1
    assert [e.seq for e in run.events()] == list(range(len(run.events())))
    assert not list(run.folder.rglob(".tmp-*"))
    counted("F2", "SIGKILL at a random moment of a toy run", rounds)


def test_a_kill_loses_at_most_one_checkpoint_interval(toy, until):
    run = toy(steps=12, die_at=9)
    launch.start(run)
    until(lambda: run.status() == "interrupted")
    before = [e.data["step"] for e in run.events() if e.type == "metric"]
    launch.resume(run)
    until(lambda: run.status() == "interrupted" and run.record().attempts == 2)
    after = [e.data["step"] for e in run.events() if e.type == "metric"][len(before) :]
    assert (before, after) == ([*range(1, 10)], [*range(6, 10)])  # step-5 was committed


def test_of_two_starters_exactly_one_makes_an_attempt(toy, until):
    starter = (
        "import sys\n"
        "from nuggets.runs import launch\n"
        "from nuggets.runs.store import Run\n"
        "from nuggets.errors import NuggetsError\n"
        "from pathlib import Path\n"
        "runs = [Run(Path(p)) for p in sys.argv[1:]]\n"
        "for run in runs:\n"
        "    try:\n"
        "        launch.start(run)\n"
        "        print('started')\n"
        "    except NuggetsError as error:\n"
        "        print(type(error).__name__)\n"
    )
    runs = [toy(steps=1, fail=True) for _ in range(3)]
    paths = [str(run.folder) for run in runs]
    rivals = [
        subprocess.Popen([sys.executable, "-c", starter, *paths], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [rival.communicate(timeout=120)[0].split() for rival in rivals]
    for run, *said in zip(runs, *answers, strict=True):
        until(lambda run=run: run.status() == "failed")
        assert Counter(said)["started"] == 1, said
        assert (attempts(run), run.record().attempts) == (1, 1)


def test_of_many_starts_at_once_each_run_is_worked_on_once(toy, tmp_path, rounds, counted):
    """Workers are forked, which takes milliseconds; both starters begin each race together."""
    starter = (
        "import functools, os, sys, time\n"
        "from pathlib import Path\n"
        "from nuggets import worker\n"
        "from nuggets.errors import NuggetsError\n"
        "from nuggets.runs import launch\n"
        "from nuggets.runs.engines import local\n"
        "from nuggets.runs.store import Run\n"
        "import toy_pipeline\n"
        "from nuggets.compute.versions import installed_versions\n"
        "installed_versions()\n"  # what every worker looks up once
        "class Child:\n"
        "    code = None\n"
        "    def poll(self):\n"
        "        if self.code is None:\n"
        "            pid, status = os.waitpid(self.pid, os.WNOHANG)\n"
        "            self.code = os.waitstatus_to_exitcode(status) if pid else None\n"
        "        return self.code\n"
        "forked = []\n"
        "def fork(module, folder, log, threads=None):\n"
        "    forked.append(folder)\n"
        "    child = Child()\n"
        "    child.pid = os.fork()\n"
        "    return child if child.pid else os._exit(worker.main([str(folder)]))\n"
        "local.spawn = fork\n"
        "root, me, end = Path(sys.argv[1]), int(sys.argv[2]), time.monotonic() + 3000\n"
        "for number, path in enumerate(sys.stdin.read().split()):\n"
        "    (root / f'{number}.{me}').touch()\n"
        "    rival = root / f'{number}.{1 - me}'\n"
        "    while not rival.exists() and time.monotonic() < end:\n"
        "        os.sched_yield()\n"
        # Both begin at the next full twentieth of a second: else whoever came last would win.
        "    time.sleep(0.05 - time.monotonic() % 0.05)\n"
        "    try:\n"
        "        launch.start(Run(Path(path)))\n"
        "        print('started')\n"
        "    except NuggetsError as error:\n"
        "        print(type(error).__name__)\n"
        "assert forked, 'it never won'\n"
    )
    races = (5 if rounds >= LONG else 2) * rounds
    runs = [toy(steps=1, fail=True) for _ in range(races)]
    (tmp_path / "races").mkdir()
    command = [sys.executable, "-c", starter, str(tmp_path / "races")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    rivals = [subprocess.Popen([*command, str(me)], **pipes) for me in range(2)]
    for rival in rivals:
        rival.stdin.write("\n".join(str(run.folder) for run in runs))
        rival.stdin.close()
    said = [rival.stdout.read().split() for rival in rivals]
    for rival in rivals:
        assert rival.wait() == 0
        rival.stdout.close()
    assert [sorted(each).count("started") for each in zip(*said, strict=True)] == [1] * races
    deadline = time.monotonic() + 60
    while any(run.status() != "failed" for run in runs) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert {(run.status(), attempts(run), run.record().attempts) for run in runs} == {
        ("failed", 1, 1)
    }
    counted("F6", "two starters of one run", races)


def test_of_many_lock_takers_exactly_one_wins_while_others_look(tmp_path, rounds, counted):
    racer = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from nuggets.disk.locks import Lock, is_held\n"
        "root, me, races = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])\n"
        "kept, end = [], time.monotonic() + 60\n"
        "for n in range(races):\n"
        "    (root / f'{n}.{me}').touch()\n"
        "    all_here = [root / f'{n}.{i}' for i in range(3)]\n"
        "    while not all(r.exists() for r in all_here) and time.monotonic() < end:\n"
        "        is_held(root / f'lock-{n}')\n"
        "        os.sched_yield()\n"
        "    lock = Lock(root / f'lock-{n}')\n"
        "    kept.append(lock if lock.acquire() else None)\n"
        "print(*(int(lock is not None) for lock in kept))\n"
        "sys.stdout.flush()\n"
        "sys.stdin.read()\n"
    )
    races = max(50, 5 * rounds)
    command = [sys.executable, "-c", racer, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen([*command, str(i), str(races)], **pipes) for i in range(3)]
    won = [[int(n) for n in racer.stdout.readline().split()] for racer in racers]
    for racer in racers:
        racer.communicate()
    assert [sum(column) for column in zip(*won, strict=True)] == [1] * races
    counted("F6", "three takers of one lock", races)


def test_a_stopped_worker_is_not_dead_and_nobody_takes_its_run(
    toy, until, worker_pid, rounds, counted
):
    run = toy(steps=5000, sleep=0.01)
    launch.start(run)
    until(lambda: run.status() == "running")
    pid = worker_pid(run)
    os.kill(pid, signal.SIGSTOP)
    seconds = 60 if rounds >= LONG else 0
    try:
        time.sleep(seconds)
        assert run.status() == "running"
        with pytest.raises(RunBusy, match="already running"):
            launch.resume(run)
        command = [sys.executable, "-m", "nuggets.worker", str(run.folder)]
        assert subprocess.run(command).returncode == 3
    finally:
        os.kill(pid, signal.SIGCONT)
    assert launch.cancel(run, wait=120) == "cancelled"
    assert attempts(run) == 1
    counted("F10", f"SIGSTOP of {seconds} s", 1)


def test_killing_the_whole_process_group_shows_as_interrupted(toy, until, worker_pid):
    run = toy(steps=5000, sleep=0.01)
    launch.start(run)
    until(lambda: run.status() == "running")
    os.killpg(worker_pid(run), signal.SIGKILL)
    until(lambda: run.status() == "interrupted")
    assert run.record().status == "running"
    with pytest.raises(BadInput, match=r"interrupted, so there is nothing to cancel"):
        launch.cancel(run)


def test_kills_of_whole_process_groups_change_no_byte_of_the_result(
    toy, until, worker_pid, rounds, counted
):
    kills = rounds // 10
    undisturbed, run = toy(steps=30), toy(steps=30, sleep=0.05)
    launch.start(undisturbed)
    until(lambda: undisturbed.status() == "done")
    launch.start(run)
    for _ in range(kills):
        os.killpg(worker_pid(run), signal.SIGKILL)
        until(lambda: run.status() == "interrupted")
        launch.resume(run)
    until(lambda: run.status() == "done")
    assert artifact(run) == artifact(undisturbed)
    counted("F4", "SIGKILL of a worker's process group", kills)


def test_a_forked_child_does_not_keep_its_dead_parents_lock(tmp_path):
    script = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from nuggets.disk.locks import Lock\n"
        "assert (lock := Lock(Path(sys.argv[1]))).acquire()\n"
        "child = os.fork()\n"
        "time.sleep(90) if child == 0 else print(child, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
    )
    child = int(parent.stdout.readline())
    parent.wait()
    parent.stdout.close()
    try:
        os.kill(child, 0)
        deadline = time.monotonic() + 60  # the child may not have run its first line yet
        while not (taken := Lock(tmp_path / "lock").acquire()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert taken
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_worker_outlives_the_process_that_started_it(toy, until, rounds, counted):
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from nuggets.runs import launch, processes\n"
        "from nuggets.runs.store import Run\n"
        "launch.start(Run(Path(sys.argv[1])))\n"
        "print(processes.children[0].pid, flush=True)\n"
        "import os, signal\n"
        "os.killpg(os.getpid(), signal.SIGKILL)\n"
    )
    kills = rounds // 10
    for _ in range(kills):
        run = toy(steps=40, sleep=0.05)
        starter = subprocess.run(
            [sys.executable, "-c", script, str(run.folder)],
            start_new_session=True,
            stdout=subprocess.PIPE,
        )
        assert starter.returncode == -signal.SIGKILL
        assert os.getsid(worker := int(starter.stdout)) == worker
        until(lambda run=run: run.status() == "done")
        assert attempts(run) == 1
    counted("F3", "SIGKILL of the process that started a worker", kills)


def test_a_queued_run_says_whom_it_waits_for_and_can_be_cancelled(toy, until):
    first, second, other = toy(steps=9000, sleep=0.01), toy(), toy(device="cuda:1")
    launch.start(first)
    until(lambda: first.status() == "running")
    launch.start(second)
    until(lambda: any(e.data.get("holder") == first.id for e in second.events()))
    assert second.status() == "queued"
    launch.start(other)
    until(lambda: other.status() == "done")
    assert launch.cancel(second, wait=120) == "cancelled"
    assert not (second.folder / "attempts.txt").exists()
    assert launch.cancel(first, wait=120) == "cancelled"


def test_a_queued_run_starts_when_the_device_is_free(toy, until):
    lock = Lock(device_lock_path("cpu"))
    lock.path.parent.mkdir(parents=True)
    assert lock.acquire()
    run = toy()
    launch.start(run)
    until(lambda: any("Waiting for cpu" in e.message for e in run.events()))
    lock.release()
    until(lambda: run.status() == "done")


def test_a_waiting_run_that_is_killed_frees_its_place_in_line(toy, until, worker_pid):
    first, killed, last = toy(steps=9000, sleep=0.01), toy(), toy()
    for run in (first, killed, last):
        launch.start(run)
        until(lambda run=run: run.events() and run.status() != "created")
        time.sleep(0.1)
    os.kill(worker_pid(killed), signal.SIGKILL)
    launch.cancel(first, wait=120)
    until(lambda: last.status() == "done")
    assert killed.status() == "interrupted"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_cancel_and_the_run_resumes(toy, until, worker_pid, number):
    run = toy(steps=150, sleep=0.02)
    launch.start(run)
    until(lambda: len(run.events()) > 8)
    os.kill(worker_pid(run), number)
    until(lambda: run.status() == "cancelled")
    launch.resume(run)
    until(lambda: run.status() == "done")
    assert run.record().attempts == 2


def test_a_resume_forgets_the_cancel_that_a_killed_worker_did_not_answer(toy, until, worker_pid):
    run = toy(steps=150, sleep=0.02)
    launch.start(run)
    until(lambda: run.status() == "running")
    pid = worker_pid(run)
    os.kill(pid, signal.SIGSTOP)
    run.request_cancel()
    os.kill(pid, signal.SIGKILL)
    until(lambda: run.status() == "interrupted")
    launch.resume(run)
    until(lambda: run.status() not in ("queued", "running"))
    assert run.status() == "done"


def test_a_file_in_the_run_folder_never_runs_as_code(toy, until):
    run = toy()
    for name in ("json.py", "nuggets.py", "toy_pipeline.py", "sitecustomize.py"):
        (run.folder / name).write_text("open('pwned', 'w').close()")
    launch.start(run)
    until(lambda: run.status() == "done")
    assert not (run.folder / "pwned").exists()


def test_a_worker_that_dies_at_once_is_reported_with_its_last_words(toy, monkeypatch):
    run = toy()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(NuggetsError, match="exit code 1 before it started the run"):
        launch.start(run)
    assert run.status() == "created"


def test_a_resume_with_changed_input_is_refused_and_says_what_changed(toy, until):
    run = toy(steps=12, die_at=9)
    launch.start(run)
    until(lambda: run.status() == "interrupted")
    (run.folder / "recipe.yaml").write_text(json.dumps({"steps": 13}))
    launch.resume(run)
    until(lambda: run.status() == "failed")
    error = run.record().error
    assert (error.type, error.exit_code) == ("BadInput", 2)
    assert "its input changed: job was" in error.message
