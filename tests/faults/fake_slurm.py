"""Slurm's commands without a cluster: jobs are processes, each on a node of its own name.

`fake_slurm.py COMMAND …` is what the commands on the PATH run; `FakeSlurm` is a test's hand on it.
The folder `FAKE_SLURM` holds a folder per job, and the files `hold` (jobs stay pending), `down`
(squeue does not answer) and `sinfo` (what sinfo prints; sbatch then refuses `--partition=broken`).
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "squeue", "scancel", "sinfo", "srun", "scontrol")


class FakeSlurm:
    """A cluster in a folder."""

    def __init__(self, root):
        self.root = Path(root)

    def install(self, bin_folder):
        """Writes the commands into a folder that is put on the PATH."""
        for folder in (self.root, bin_folder):
            folder.mkdir(parents=True)
        for name in COMMANDS:
            script = f'#!/bin/sh\nexec "{sys.executable}" -S -E "{__file__}" {name} "$@"\n'
            (bin_folder / name).write_text(script)
            (bin_folder / name).chmod(0o755)

    def set(self, name, content=""):
        (self.root / name).write_text(content)

    def unset(self, name):
        (self.root / name).unlink()

    def state(self, job, new=None):
        path = self.root / str(job) / "state"
        if new is not None:
            path.write_text(new)
        return path.read_text()

    def jobs(self):
        return sorted(int(p.name) for p in self.root.iterdir() if p.name.isdecimal())

    def begin(self, job, node="node1"):
        """Gives a pending job a node."""
        self.state(job, "RUNNING")
        subprocess.Popen(
            [sys.executable, "-S", "-E", __file__, "_run", str(job), node],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ).returncode = 0  # nobody waits for it
        while not (self.root / str(job) / "group").exists():
            time.sleep(0.01)

    def send(self, job, number):
        """Signals every process of a job, as slurmd does, or as a power cut (SIGKILL)."""
        os.killpg(int((self.root / str(job) / "group").read_text()), number)

    def end_all(self):
        for job in self.jobs():
            with contextlib.suppress(OSError, ValueError):
                self.send(job, signal.SIGKILL)


def sbatch(slurm, script):
    text = Path(script).read_text()
    if "--partition=broken" in text:
        sys.exit("sbatch: error: Batch job submission failed: invalid partition specified")
    job = max([*slurm.jobs(), 100]) + 1
    (slurm.root / str(job)).mkdir()
    (slurm.root / str(job) / "script").write_text(text)
    slurm.state(job, "PENDING")
    print(f"Submitted batch job {job}")
    sys.stdout.flush()
    if not (slurm.root / "hold").exists():
        slurm.begin(job)


def run(slurm, job, node):
    """One job from its start to its end: the batch script in a process group of its own."""
    place = slurm.root / job
    given = {"SLURM_JOB_ID": job, "SLURMD_NODENAME": node, "SLURM_CPUS_PER_TASK": "1"}
    script = subprocess.Popen(
        # Slurm spares the shell, which would die of the signal that says that time is up.
        ["/bin/bash", "-c", f"trap '' USR2; . {place / 'script'}"],
        env=os.environ | given,
        start_new_session=True,
    )
    (place / "group.tmp").write_text(str(script.pid))
    (place / "group.tmp").rename(place / "group")
    script.wait()
    if slurm.state(job) == "RUNNING" and not (slurm.root / "power cut").exists():
        slurm.state(job, "COMPLETED")


def srun(*words):
    for place, word in enumerate(words):
        if word == "--output":
            name = words[place + 1].replace("%j", os.environ["SLURM_JOB_ID"]).replace("%t", "0")
        if word.startswith("/"):
            if words[place - 1] in ("--output", "--error"):
                continue
            with Path(name).open("ab") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            os.execv(word, words[place:])


def main(command, *words):
    slurm = FakeSlurm(os.environ["FAKE_SLURM"])
    if command == "sbatch":
        sbatch(slurm, words[-1])
    elif command == "_run":
        run(slurm, *words)
    elif command == "srun":
        srun(*words)
    elif command == "squeue":
        if (slurm.root / "down").exists():
            sys.exit("slurm_load_jobs error: Unable to contact slurm controller")
        for job in slurm.jobs():
            if (state := slurm.state(job)) in ("PENDING", "RUNNING"):
                print(f"{job}|{state}")
    elif command == "scancel":
        before = slurm.state(words[0])
        slurm.state(words[0], "CANCELLED")
        if before == "RUNNING":
            slurm.send(words[0], signal.SIGTERM)
    elif command == "sinfo":
        print((slurm.root / "sinfo").read_text())
    elif command == "scontrol":
        slurm.state(words[1], "PENDING")


if __name__ == "__main__":
    main(*sys.argv[1:])
