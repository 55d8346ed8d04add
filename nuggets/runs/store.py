"""Runs on disk: a folder each, listed by reading the folders. There is no index to lose."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nuggets import demo
from nuggets.disk.commit import (
    atomic_write,
    disk_errors,
    make_folder,
    new_folder,
    remove_folder,
    sweep_temps,
)
from nuggets.disk.locks import Lock
from nuggets.disk.untrusted import is_file, read_text
from nuggets.errors import BadInput, Damaged, RunBusy, Unsupported
from nuggets.runs import leases
from nuggets.runs.events import read_events
from nuggets.runs.schema import (
    LIVE,
    RESUMABLE,
    Provenance,
    RunEvent,
    RunRecord,
    RunStatus,
    now,
    parse_record,
)

MAX_BYTES = 10_000_000
"""Of a record or recipe."""
_DEVICE = re.compile(r"[a-z][a-z0-9_]{0,15}(:\d{1,3})?")
_OWN = ".own"
"""A folder of empty files, named by the sha256 of every recipe that was made or allowed here."""


class Run:
    """One run folder, as readers see it. Only the worker, through `RunContext`, writes more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.id = folder.name
        self._given_device = ""
        self._lease: leases.Held | None = None

    # Joined when they are asked for: a page makes thousands of these objects.

    @property
    def lock_path(self) -> Path:
        """Held by the worker for life."""
        return self.folder / "lock"

    @property
    def record_path(self) -> Path:
        """Replaced atomically by the worker."""
        return self.folder / "record.json"

    @property
    def events_path(self) -> Path:
        """Appended by the worker."""
        return self.folder / "events.jsonl"

    @property
    def log_path(self) -> Path:
        """Everything that the worker printed."""
        return self.folder / "output.log"

    @property
    def _cancel_path(self) -> Path:
        return self.folder / "cancel"

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def record(self) -> RunRecord:
        """The record as last written.

        Raises:
            Damaged: if it cannot be read.
            Unsupported: if another version of Nuggets wrote it.
        """
        return parse_record(self._read("record.json"), str(self.record_path))

    def status(self) -> RunStatus:
        """What the run is now: the record, corrected by who has it."""
        try:
            record = self.record()
            while True:
                if record.status == "done":
                    return "done"
                owner = leases.owner(self.folder, self.lock_path)
                again = self.record()
                if again == record:
                    break
                record = again  # it was written between the two looks: look once more
        except (Damaged, Unsupported):
            return "damaged"
        taken = record.status == "created" and self.queued_before()
        # Owned, and still as the last attempt ended: the next one is about to begin.
        ended = record.status in RESUMABLE and record.status != "created"
        if owner == "queue" or (owner and (taken or ended)):
            return "queued"
        return "interrupted" if not owner and (taken or record.status in LIVE) else record.status

    def queued_job(self) -> str:
        """The job that waits for a worker in a cluster's queue; empty without one."""
        last = leases.newest(self.folder)
        return last.lease.job if last is not None and last.waits() else ""

    def queued_before(self) -> bool:
        """Whether a cluster's queue took the run, whatever became of it."""
        last = leases.newest(self.folder)
        return last is not None and bool(last.lease.job)

    def problem(self) -> str | None:
        """Why the run is shown as damaged, in one sentence; None when it is not."""
        try:
            self.record()
        except (Damaged, Unsupported) as error:
            return str(error)
        return None

    def device(self) -> str:
        """The device this run computes on; runs of one device wait for each other.

        `cuda` is any GPU that its engine gives it, until its worker has one.

        Raises:
            Damaged: The file of the run names none.
        """
        device = self._given_device or self._read("device").strip()
        if not _DEVICE.fullmatch(device):
            raise Damaged(f"{self.folder / 'device'} names no device: {device[:60]!r}.")
        return device

    def use_device(self, device: str) -> None:
        """Says which device this worker got."""
        self._given_device = device

    def recipe_text(self) -> str:
        """The recipe as YAML, written once."""
        return self._read("recipe.yaml")

    def events(self, after_seq: int = -1) -> list[RunEvent]:
        """The events with `seq > after_seq`; safe while the worker is writing."""
        return read_events(self.events_path, after_seq)

    def log_tail(self, lines: int = 50) -> str:
        """The last lines of the worker's output; at most 64 KiB are read."""
        if not is_file(self.log_path):
            return ""
        with self.log_path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 65536))
            text = file.read(65536).decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def request_cancel(self) -> None:
        """Asks the worker to stop at its next check."""
        with disk_errors(self.folder):
            self._cancel_path.touch()

    def cancel_requested(self) -> bool:
        """Whether somebody asked to stop and the worker has not ended since."""
        return self._cancel_path.exists()

    def clear_cancel(self) -> None:
        """Forgets the request: the run ended, or is about to be resumed."""
        self._cancel_path.unlink(missing_ok=True)

    def notes(self) -> str:
        """The user's notes; kept apart from the record, which only the worker writes."""
        path = self.folder / "notes.txt"
        return path.read_text(errors="replace") if is_file(path) else ""

    @demo.refuses("notes are not kept")
    def set_notes(self, text: str) -> None:
        """Replaces the user's notes."""
        atomic_write(self.folder / "notes.txt", text)

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Owns the run for the length of the block, among all machines that share its folder.

        Raises:
            RunBusy: if another process owns it.
        """
        with self._locked(), leases.held(self.folder) as self._lease:
            try:
                yield
            finally:
                self._lease = None

    def confirm_owner(self) -> None:
        """Raises `RunBusy` if this owner was taken for dead and another machine has the run."""
        if self._lease is not None and self._lease.lost():
            raise RunBusy(
                f"Run {self.id} was taken over by another worker while this one was not heard of; "
                "this one stops."
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = Lock(self.lock_path)
        with disk_errors(self.lock_path):
            taken = lock.acquire()
        if not taken:
            raise RunBusy(
                f"Run {self.id} belongs to another process, or was just deleted. Follow it, or "
                "cancel it first."
            )
        try:
            yield
        finally:
            lock.release()

    def delete(self) -> None:
        """Deletes the run for good, which needs no space on the disk.

        Raises:
            RunBusy: while somebody owns it.
        """
        with self._locked():
            leases.refuse_owned(self.folder)
            remove_folder(self.folder)

    def _read(self, name: str) -> str:
        path = self.folder / name
        try:
            return read_text(path, MAX_BYTES)
        except BadInput as error:
            raise Damaged(
                f"{path} cannot be read. {error} Restore it from a copy, or delete the run."
            ) from error


class RunStore:
    """The runs in one folder, usually `home.runs_dir()`."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def create(self, kind: str, job_yaml: str, name: str, device: str = "cpu") -> Run:
        """Makes a run that nobody has started yet; it appears complete or not at all.

        Args:
            kind: what sort of job, for the worker's pipeline.
            job_yaml: the recipe.
            name: a name for people; reduced to a-z, 0-9 and hyphens.
            device: where it will compute, such as `cpu` or `cuda:0`.
        """
        made = now()
        slug = _slug(name) or _slug(kind) or "run"
        run_id = self._unused(f"{made:%Y%m%d-%H%M%S}-{slug}")
        record = RunRecord(
            id=run_id,
            kind=kind,
            name=slug,
            status="created",
            created=made,
            provenance=Provenance(device=device),
        )
        make_folder(self.root)
        sweep_temps(self.root)
        self.adopt(job_yaml)
        with new_folder(self.root / run_id) as folder:
            (folder / "recipe.yaml").write_text(job_yaml)
            (folder / "device").write_text(device + "\n")
            (folder / "record.json").write_text(record.model_dump_json(indent=1))
            (folder / "lock").touch()
        return Run(self.root / run_id)

    def _unused(self, begin: str) -> str:
        """An id that no run has; of a hundred runs in one second, two often drew the same end."""
        while True:
            found = f"{begin}-{secrets.token_hex(2)}"
            if not os.path.lexists(self.root / found):
                return found

    def adopt(self, recipe: str) -> None:
        """Remembers a recipe's text as made or allowed here; all others are a stranger's."""
        make_folder(self.root / _OWN)
        with disk_errors(self.root / _OWN):
            self._own(recipe).touch()

    def is_own(self, recipe: str) -> bool:
        """Whether a recipe of exactly this text was made or allowed here."""
        return self._own(recipe).is_file()

    def _own(self, recipe: str) -> Path:
        return self.root / _OWN / hashlib.sha256(recipe.encode()).hexdigest()

    def open(self, run_id: str) -> Run:
        """The run with this id, or the only one whose id begins with it.

        Raises:
            BadInput: if there is none or more than one, naming what exists.
        """
        runs = self.list()
        matches = [run for run in runs if run_id and run.id.startswith(run_id)]
        exact = [run for run in matches if run.id == run_id]
        if len(exact or matches) == 1:
            return (exact or matches)[0]
        known = ", ".join(run.id for run in (matches or runs)[:10]) or "none"
        found = f"{len(matches)} run ids begin" if matches else "No run id begins"
        raise BadInput(f"{found} with {run_id!r} in {self.root}. Choose one of: {known}.")

    def list(self) -> list[Run]:
        """All runs, newest first; damaged ones too, with that status."""
        if not self.root.is_dir():
            return []
        with os.scandir(self.root) as entries:  # which knows folders without a look at each
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        visible = sorted((name for name in names if not name.startswith(".")), reverse=True)
        return [Run(self.root / name) for name in visible]

    def delete(self, run_id: str) -> None:
        """Deletes a run for good.

        Raises:
            RunBusy: while a worker owns it.
        """
        self.open(run_id).delete()


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")
