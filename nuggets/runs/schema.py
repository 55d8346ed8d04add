"""What a run folder says about itself: its record and its events."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import AwareDatetime, Field, JsonValue, ValidationError, field_validator

from nuggets.errors import Damaged, Unsupported
from nuggets.frozen import Frozen
from nuggets.recipe_tree import RENAMED

SCHEMA_VERSION = 1

ALL_FILES = "files:"
"""Begins the digest of a model over every file that it is read from; 0.1 left some out."""

RecordedStatus = Literal["created", "queued", "running", "done", "failed", "cancelled"]
"""What the worker writes. A killed worker writes nothing more."""

RunStatus = Literal[RecordedStatus, "interrupted", "damaged"]
"""What a run is now, derived from the record and the lock."""

LIVE: frozenset[RunStatus] = frozenset({"queued", "running"})
"""Statuses with a living worker."""

RESUMABLE: frozenset[RunStatus] = frozenset({"created", "interrupted", "failed", "cancelled"})
"""Statuses from which `resume` continues at the last commit, or starts what never was started."""

EventType = Literal["stage", "progress", "metric", "log", "status", "artifact"]


class RunError(Frozen):
    """Why a run failed: the error's class, its sentence, and the worker's exit code."""

    type: str
    message: str
    exit_code: int


class Provenance(Frozen):
    """What a result depends on besides the recipe."""

    versions: dict[str, str] = Field(default_factory=dict)
    device: str
    digests: dict[str, str] = Field(default_factory=dict)

    @field_validator("digests")
    @classmethod
    def _new_names(cls, digests: dict[str, str]) -> dict[str, str]:
        """Files of samples under the names that their fields have now; 0.1.0 had others."""
        new = {f"data.{old}": f"data.{name}" for old, name in RENAMED.items()}
        return {new.get(name, name): digest for name, digest in digests.items()}


class RunRecord(Frozen):
    """The state of a run, as its worker wrote it last.

    `started` and `finished` belong to the newest attempt; `progress` is the fraction of the
    current stage, None while unknown.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    id: str
    kind: str
    name: str
    status: RecordedStatus
    created: AwareDatetime
    started: AwareDatetime | None = None
    finished: AwareDatetime | None = None
    stage: str = ""
    stages: tuple[str, ...] = ()
    progress: float | None = Field(default=None, ge=0, le=1)
    error: RunError | None = None
    provenance: Provenance
    attempts: int = 0

    def changed(self, **fields: Any) -> RunRecord:
        """A checked copy with some fields replaced."""
        return RunRecord.model_validate({**dict(self), **fields})


class RunEvent(Frozen):
    """One line of `events.jsonl`; `seq` counts from 0 and orders events, whatever the clock."""

    seq: int
    time: AwareDatetime
    type: EventType
    stage: str = ""
    message: str = ""
    data: dict[str, JsonValue] = Field(default_factory=dict)


def now() -> datetime:
    """The time in UTC."""
    return datetime.now(UTC)


def parse_record(text: str, source: str) -> RunRecord:
    """Reads a record.

    Raises:
        Unsupported: if another version of Nuggets wrote it in another schema.
        Damaged: if it is not a record.
    """
    try:
        version = json.loads(text)["schema_version"]
        if version == SCHEMA_VERSION:
            return RunRecord.model_validate_json(text)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "not a record"
        raise Damaged(
            f"{source} cannot be read: {reason}. Restore it from a copy, or delete the run."
        ) from error
    raise Unsupported(
        f"{source} has schema version {version!r}, but this Nuggets reads version "
        f"{SCHEMA_VERSION}. Open the run with the version of Nuggets that wrote it."
    )
