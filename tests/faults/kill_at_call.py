"""Kills a process at each of its system calls, by tracing it: `kill_at_call.py SCENARIO ROOT`.

For k = 1, 2, … the scenario runs in a fresh folder `ROOT/case-<k>`, in a child that gets SIGKILL
as it enters its k-th system call, until a child gets through alive. What a child acknowledged
before it died (one byte per call that returned) is kept in `ROOT/case-<k>.acknowledged`.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

from nuggets.disk.commit import atomic_write, commit_folder, remove_folder
from nuggets.runs.events import EventLog
from nuggets.runs.store import RunStore

TRACEME, SYSCALL, SETOPTIONS, TRACESYSGOOD = 0, 24, 0x4200, 1


def write_step(root, number):
    with commit_folder(root / f"step-{number}") as folder:
        (folder / "sub").mkdir()
        (folder / "a.bin").write_bytes(bytes([number]) * 20000)
        (folder / "sub" / "b.txt").write_text(f"step {number}")


def append(root, words):
    log = EventLog(root / "events.jsonl")
    for word in words:
        log.append("log", "stage", word, {}, durable=True)
    log.close()


# name → (what is there before, what is interrupted)
SCENARIOS = {
    "commit": (lambda root: write_step(root, 1), lambda root: write_step(root, 2)),
    "file": (
        lambda root: atomic_write(root / "record.json", "old" * 100),
        lambda root: atomic_write(root / "record.json", "new" * 100),
    ),
    "events": (lambda root: append(root, ["one"]), lambda root: append(root, ["two", "three"])),
    "create": (lambda root: None, lambda root: RunStore(root).create("toy", "{}", "x")),
    "remove": (lambda root: write_step(root, 1), lambda root: remove_folder(root / "step-1")),
}


def run_until_call(action, root, kill_at, acknowledge):
    """Runs `action(root)` in a traced child; True if it ended before its `kill_at`-th call."""
    libc = ctypes.CDLL(None, use_errno=True)
    child = os.fork()
    if child == 0:
        if libc.ptrace(TRACEME, 0, None, None):
            os._exit(77)
        os.kill(os.getpid(), signal.SIGSTOP)
        action(root)
        os.write(acknowledge, b"!")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        raise SystemExit(77)
    libc.ptrace(SETOPTIONS, child, None, ctypes.c_void_p(TRACESYSGOOD))
    stops = 0
    while True:
        libc.ptrace(SYSCALL, child, None, None)
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            assert status == 0, f"the scenario itself failed with wait status {status}"
            return True
        stops += os.WSTOPSIG(status) == signal.SIGTRAP | 0x80
        if stops == 2 * kill_at - 1:  # a call stops twice: on entry and on exit
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False


def main():
    before, action = SCENARIOS[sys.argv[1]]
    root = Path(sys.argv[2])
    kill_at, survived = 0, False
    while not survived:
        kill_at += 1
        case = root / f"case-{kill_at}"
        case.mkdir(parents=True)
        before(case)
        acknowledged = os.open(f"{case}.acknowledged", os.O_WRONLY | os.O_CREAT)
        survived = run_until_call(action, case, kill_at, acknowledged)
        os.close(acknowledged)


if __name__ == "__main__":
    main()
