"""What a pipeline is given: its folders, and the one writer of the run's record and events."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from nuggets.compute.versions import installed_versions
from nuggets.disk.commit import atomic_write, commit_folder, make_folder, sweep_temps
from nuggets.disk.manifest import verify_folder
from nuggets.errors import BadInput, Cancelled, Damaged
from nuggets.runs.events import EventLog
from nuggets.runs.schema import (
    ALL_FILES,
    EventType,
    Provenance,
    RecordedStatus,
    RunError,
    RunEvent,
    now,
)
from nuggets.runs.store import Run

PROGRESS_INTERVAL_S = 0.5
"""Progress is written at most this often; people cannot read faster and disks tire."""


class RunContext:
    """The worker's hand on its run; implements `nuggets.progress.Progress`.

    Make it only while owning the run. `on_event` sees every event as it is written.
    """

    def __init__(self, run: Run, on_event: Callable[[RunEvent], None] | None = None) -> None:
        self.run = run
        self.folder = run.folder
        self.artifacts = run.folder / "artifacts"
        self.checkpoints = run.folder / "checkpoints"
        self._on_event = on_event
        self._record = run.record()
        self._log = EventLog(run.events_path)
        self._stop = False
        self._next_progress = 0.0
        sweep_temps(self.folder, recursive=True)
        make_folder(self.artifacts)
        make_folder(self.checkpoints)

    def plan(self, stages: Sequence[str]) -> None:
        """Announces the names of all stages, in order."""
        self._save(stages=tuple(stages))

    def stage(self, name: str) -> None:
        """Enters a stage, unless somebody asked to stop; its progress is unknown until reported."""
        self.check_cancelled()
        self._save(stage=name, progress=None)
        self._next_progress = 0.0
        self._emit("stage", name)

    def progress(self, done: float, total: float, message: str = "", **data: Any) -> None:
        """Reports `done` of `total`; written at most twice a second, and always at the end."""
        if done < total and time.monotonic() < self._next_progress:
            return
        self._next_progress = time.monotonic() + PROGRESS_INTERVAL_S
        fraction = min(1.0, max(0.0, done / total)) if total > 0 else None
        self._save(progress=fraction)
        self._emit("progress", message, {**data, "done": done, "total": total})

    def metric(self, **data: Any) -> None:
        """Records measured values (JSON values only), for curves."""
        self._emit("metric", data=data)

    def log(self, text: str) -> None:
        """Records one sentence for people."""
        self._emit("log", text)

    def check_cancelled(self) -> None:
        """Raises `Cancelled` once a signal or `Run.request_cancel` asked to stop."""
        if self._stop or self.run.cancel_requested():
            raise self.cancelled()

    def cancelled(self) -> Cancelled:
        """How an attempt ends that somebody asked to stop."""
        return Cancelled(f"Run {self.run.id} was cancelled on request; resume it to continue.")

    def request_stop(self) -> None:
        """Makes the next `check_cancelled` raise; safe in a signal handler."""
        self._stop = True

    @contextmanager
    def commit(self, name: str) -> Iterator[Path]:
        """Yields a folder to fill, which appears as `artifacts/<name>` when the block succeeds.

        Raises:
            NuggetsError: if a valid artifact of this name exists, or the disk fails. A damaged
                one is kept aside under a hidden name.
        """
        final = self._artifact(name)
        if final.exists() and not self.done(name):
            final.rename(final.with_name(f".damaged-{final.name}-{secrets.token_hex(4)}"))
        with commit_folder(final) as folder:
            yield folder
            self.run.confirm_owner()
        self._emit("artifact", name, {"path": f"artifacts/{name}"}, durable=True)

    def done(self, name: str) -> bool:
        """Whether `artifacts/<name>` is committed and verifies."""
        try:
            verify_folder(self._artifact(name))
        except Damaged:
            return False
        return True

    def provenance(self, **digests: str) -> None:
        """Records what the results depend on; a resume must find the same.

        Args:
            **digests: for example `teacher="sha256:…"`.

        Raises:
            BadInput: if an earlier attempt recorded another digest under the same name.
        """
        known = self._record.provenance.digests
        changed = [name for name in digests if known.get(name, digests[name]) != digests[name]]
        if changed:
            named_otherwise = [name for name in changed if digests[name].startswith(ALL_FILES)]
            if named_otherwise and not any(known[n].startswith(ALL_FILES) for n in named_otherwise):
                raise BadInput(
                    f"Run {self.run.id} cannot resume: version 0.1 began it and identified its "
                    "models by fewer of their files, so nobody can tell whether they are still the "
                    "same. What it finished can be read; start a new run for the rest."
                )
            details = "; ".join(f"{name} was {known[name]}, is {digests[name]}" for name in changed)
            raise BadInput(
                f"Run {self.run.id} cannot resume, because its input changed: {details}. "
                "Restore it, or start a new run."
            )
        kept = self._record.provenance.model_copy(update={"digests": {**known, **digests}})
        self._save(provenance=kept)

    def begin_attempt(self) -> None:
        """Counts the attempt, as queued, with the versions it runs on."""
        old = self._record.provenance.versions
        versions = installed_versions()
        self._save(
            status="queued",
            attempts=self._record.attempts + 1,
            started=now(),
            finished=None,
            error=None,
            progress=None,
            provenance=Provenance(
                versions=versions,
                device=self._record.provenance.device,
                digests=self._record.provenance.digests,
            ),
        )
        attempt = {"status": "queued", "attempt": self._record.attempts}
        self._emit("status", "queued", attempt, durable=True)
        moved = [f"{k} {old[k]} → {v}" for k, v in versions.items() if k in old and old[k] != v]
        if moved:
            self.log(
                "Resumed with different versions, so the last digits may differ: "
                f"{', '.join(moved)}."
            )

    def waiting_for(self, device: str, holder: str) -> None:
        """Says which run holds the device that this one waits for."""
        held = f"held by run {holder}" if holder else "other runs are waiting first"
        message = f"Waiting for {device}, {held}."
        self._emit("status", message, {"status": "queued", "device": device, "holder": holder})

    def use_device(self, device: str) -> None:
        """Records which device this attempt got."""
        self.run.use_device(device)
        known = self._record.provenance
        if known.device != device:
            self._save(provenance=known.model_copy(update={"device": device}))

    def set_status(self, status: RecordedStatus, error: RunError | None = None) -> None:
        """Records a change of status; a terminal one ends the attempt."""
        message = error.message if error else status
        # The event comes first: whoever sees a terminal status has all events to read.
        self._emit("status", message, {"status": status}, durable=True)
        ended = status in ("done", "failed", "cancelled")
        self._save(status=status, error=error, **({"finished": now()} if ended else {}))

    def close(self) -> None:
        """Closes the event log."""
        self._log.close()

    def _artifact(self, name: str) -> Path:
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or any(p.startswith(".") for p in path.parts):
            raise BadInput(
                f"{name!r} is not a valid artifact name; use a relative name without dots."
            )
        return self.artifacts / path

    def _save(self, **fields: Any) -> None:
        self.run.confirm_owner()
        self._record = self._record.changed(**fields)
        atomic_write(self.run.record_path, self._record.model_dump_json(indent=1))

    def _emit(
        self,
        type_: EventType,
        message: str = "",
        data: dict[str, Any] | None = None,
        *,
        durable: bool = False,
    ) -> None:
        self.run.confirm_owner()
        stage = self._record.stage
        event = self._log.append(type_, stage, message, data or {}, durable=durable)
        if self._on_event is not None:
            self._on_event(event)
