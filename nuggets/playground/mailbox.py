"""Asking models questions: one worker holds them, answers from files, and leaves when idle.

The worker is `nuggets.playground.worker`. The folder `playground` of the home is
the whole interface:

    lock            held by the worker for life: liveness, as for runs
    launch.lock     held while a question is posted or the worker decides to leave
    questions/      one file per question, in order of arrival
    working/        the question being answered; what a killed worker left there is not tried again
    replies/        one file per reply, replaced as tokens arrive
    state.json      what is loaded
"""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from nuggets.data.samples import Format
from nuggets.disk.commit import atomic_write, disk_errors, make_folder
from nuggets.disk.home import nuggets_home, runs_dir
from nuggets.disk.locks import Lock, is_held
from nuggets.errors import BadInput, NuggetsError
from nuggets.frozen import Frozen, first_fault
from nuggets.lens.report import Lens
from nuggets.models.references import short_name
from nuggets.planning.checks import check_model
from nuggets.recipe import TransferRecipe
from nuggets.recipe_tree import absolute_model
from nuggets.runs.processes import spawn
from nuggets.runs.results import cell_folder
from nuggets.runs.store import Run, RunStore
from nuggets.stages.exporting import ADAPTER, MODEL
from nuggets.workspace import strangers

IDLE_S = 300.0
"""Seconds without a question after which the worker leaves and its memory is free."""
LAUNCH_TIMEOUT_S = 60.0
_POLL_S = 0.02
_GONE = (
    "The playground's worker stopped before it answered; it was killed or ran out of memory. Ask "
    "again to restart it."
)
_started: list[subprocess.Popen[bytes]] = []
"""The worker that this process started last."""


class Speaker(Frozen):
    """Who answers: a model, or an arm of a run on its student.

    Attributes:
        model: built-in name, folder, GGUF file or `org/name@revision`.
        run: id of a transfer, for one of its arms.
        arm: the arm's name.
        seed: the arm's seed.
    """

    model: str
    run: str | None = None
    arm: str | None = None
    seed: int | None = None

    @property
    def label(self) -> str:
        """A name for people."""
        return short_name(self.model) if self.arm is None else f"{self.arm} (seed {self.seed})"


class Question(Frozen):
    """One prompt to several speakers, answered greedily, or with an answer to look into them.

    Attributes:
        speakers: who answers, in order.
        prompt: the question.
        max_new_tokens: most tokens of an answer.
        alternatives: how many of the most probable tokens are told at every place.
        scale: factor on every adapter; 0 is the student, 1 the arm as trained.
        format: how the prompt is written for a model: as in the paper's data, or by its
            tokenizer's chat template.
        device: `auto` or a device's name.
        answer: the right answer, if the speakers are not to answer but to be looked into while
            they are given this one; then they are models, not arms with an adapter.
    """

    speakers: tuple[Speaker, ...] = Field(min_length=1, max_length=16)
    prompt: str = Field(min_length=1, max_length=20_000)
    max_new_tokens: int = Field(default=24, ge=1, le=512)
    alternatives: int = Field(default=5, ge=1, le=20)
    scale: float = Field(default=1.0, ge=0, le=4)
    format: Format = "paper"
    device: str = "auto"
    answer: str | None = Field(default=None, min_length=1, max_length=20_000)


class Token(Frozen):
    """One greedy token, how sure the model was, and what else it might have said."""

    text: str
    probability: float
    alternatives: tuple[tuple[str, float], ...] = ()


class Answer(Frozen):
    """What one speaker said.

    Attributes:
        speaker: who.
        text: the answer without special tokens.
        tokens: one by one, with probabilities.
        seconds: from question to answer, loading included.
        finished: False when it was cut at the limit of tokens.
        read: the exact text that the model continued.
        note: what the user should know, one sentence.
        problem: why there is no answer.
        lens: what was seen in it, where the right answer was given.
    """

    speaker: Speaker
    text: str = ""
    tokens: tuple[Token, ...] = ()
    seconds: float = 0.0
    finished: bool = False
    read: str = ""
    note: str = ""
    problem: str = ""
    lens: Lens | None = None


class Reply(Frozen):
    """The answers to a question, as far as they are there."""

    id: str
    status: Literal["waiting", "answering", "done", "failed"]
    question: Question
    answers: tuple[Answer, ...] = ()
    problem: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.status in ("done", "failed")


class State(Frozen):
    """What the worker holds in memory; `alive` is what its lock says."""

    alive: bool = False
    loaded: tuple[str, ...] = ()
    device: str = ""
    bytes: int = 0


def question(**fields: Any) -> Question:
    """A question from its fields.

    Raises:
        BadInput: naming the first field that does not fit.
    """
    try:
        return Question(**fields)
    except ValidationError as problem:
        raise BadInput(f"The question is not valid: {first_fault(problem)}.") from None


def folder() -> Path:
    """Where the worker and its clients meet."""
    return nuggets_home() / "playground"


def ask(question: Question, timeout: float = 600.0) -> Reply:
    """Asks and waits for the answers; the worker keeps the models for the next question.

    Raises:
        BadInput: if a speaker cannot be loaded; nothing is started then.
        NuggetsError: if the worker dies or does not answer in time.
    """
    reply_id = post(question)
    deadline = time.monotonic() + timeout
    while not (found := reply(reply_id)).ended:
        if time.monotonic() > deadline:
            raise NuggetsError(f"The playground did not answer within {timeout:.0f} s.")
        time.sleep(_POLL_S)
    if found.status == "failed":
        raise NuggetsError(found.problem)
    return found


def post(question: Question) -> str:
    """Puts a question before the worker, starting one if there is none; returns the reply's id.

    Raises:
        BadInput: if a speaker cannot be loaded, as far as configurations and headers tell.
    """
    question = _checked(question)
    question_id = f"{time.time_ns():020d}-{_digest(question)}"
    for name in ("questions", "working", "replies"):
        make_folder(folder() / name)
    waiting = Reply(id=question_id, status="waiting", question=question)
    with launching():
        write_reply(waiting)
        path = folder() / "questions" / f"{question_id}.json"
        atomic_write(path, question.model_dump_json())
        if not is_held(folder() / "lock"):
            _start_worker(path)
    return question_id


def reply(reply_id: str) -> Reply:
    """The reply to a question, corrected by whether the worker lives.

    Raises:
        BadInput: if there is no such reply any more.
    """
    found = _read_reply(reply_id)
    if found.ended or is_held(folder() / "lock") or is_held(folder() / "launch.lock"):
        return found
    found = _read_reply(reply_id)  # it may have been finished between the two looks
    return found if found.ended else reply_of_the_dead(reply_id)


def latest(question: Question) -> Reply | None:
    """The newest reply to exactly this question that is still kept.

    Raises:
        BadInput: if a speaker cannot be loaded.
    """
    name = f"*-{_digest(_checked(question))}.json"
    found = sorted((folder() / "replies").glob(name))
    return reply(found[-1].stem) if found else None


def reply_of_the_dead(reply_id: str) -> Reply:
    """A reply whose worker died on it, with what it said so far."""
    update = {"status": "failed", "problem": _GONE}
    return _read_reply(reply_id).model_copy(update=update)


def state() -> State:
    """What is in memory now."""
    if not is_held(folder() / "lock"):
        return State()
    try:
        known = State.model_validate_json((folder() / "state.json").read_text())
    except (OSError, ValidationError):
        known = State()
    return known.model_copy(update={"alive": True})


def free(wait: float = 5.0) -> State:
    """Asks the worker to drop its models and leave; returns what is left after `wait` seconds."""
    if is_held(folder() / "lock"):
        with disk_errors(folder()):
            (folder() / "stop").touch()
    deadline = time.monotonic() + wait
    while is_held(folder() / "lock") and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return state()


def free_own() -> None:
    """Asks the worker to leave if it was this process that started it."""
    if any(child.poll() is None for child in _started):
        free(wait=0)


def speakers_of(run: Run) -> list[Speaker]:
    """Every finished arm and seed of a transfer that can answer, in the recipe's order."""
    job = strangers.job_of(run)
    if not isinstance(job, TransferRecipe):
        return []
    return [
        Speaker(model=job.student, run=run.id, arm=arm.name, seed=seed)
        for arm in job.arms
        for seed in job.seeds
        if _is_here(cell_folder(run, arm.name, seed), arm.trains)
    ]


def _is_here(cell: Path, trained: bool) -> bool:
    """Whether an arm finished and its weights are here; a bundle may have left them behind."""
    kept = not trained or (cell / ADAPTER).is_dir() or (cell / MODEL).is_dir()
    return cell.is_dir() and kept


def write_reply(reply: Reply) -> None:
    """Replaces a reply's file in one step."""
    atomic_write(folder() / "replies" / f"{reply.id}.json", reply.model_dump_json())


@contextmanager
def launching() -> Iterator[None]:
    """Keeps questions from arriving while the worker leaves, and two workers from starting.

    Raises:
        NuggetsError: Another process does not let go of the lock.
    """
    make_folder(folder())
    lock = Lock(folder() / "launch.lock")
    deadline = time.monotonic() + LAUNCH_TIMEOUT_S
    while not lock.acquire():
        if time.monotonic() > deadline:
            raise NuggetsError(f"{lock.path} is held by another process; check what is hanging.")
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        lock.release()


def _digest(question: Question) -> str:
    return hashlib.sha256(question.model_dump_json().encode()).hexdigest()[:16]


def _checked(question: Question) -> Question:
    """The question with absolute paths, after a look at everyone who is to answer."""
    speakers = []
    for each in question.speakers:
        model = absolute_model(each.model, Path.cwd())
        check_model(model)
        if each.arm is None:
            speakers.append(each.model_copy(update={"model": model}))
            continue
        known = speakers_of(RunStore(runs_dir()).open(each.run or ""))
        same_arm = [s for s in known if s.arm == each.arm and each.seed in (None, s.seed)]
        if not same_arm:
            names = ", ".join(dict.fromkeys(str(s.arm) for s in known)) or "none"
            raise BadInput(
                f"Run {each.run} has no finished arm {each.arm!r} with seed {each.seed}; finished "
                f"arms: {names}."
            )
        speakers.append(same_arm[0])
    return question.model_copy(update={"speakers": tuple(speakers)})


def _read_reply(reply_id: str) -> Reply:
    path = folder() / "replies" / f"{reply_id}.json"
    try:
        if path.parent != (folder() / "replies"):
            raise OSError
        return Reply.model_validate_json(path.read_text())
    except (OSError, ValidationError):
        raise BadInput("That answer is no longer stored; ask again.") from None


def _start_worker(waiting: Path) -> None:
    """Returns once a worker holds the lock or took the question `waiting`: it may die of it."""
    log = folder() / "output.log"
    (folder() / "stop").unlink(missing_ok=True)
    log.unlink(missing_ok=True)
    child = spawn("nuggets.playground.worker", folder(), log)
    _started[:] = [child]
    deadline = time.monotonic() + LAUNCH_TIMEOUT_S
    while True:
        ended = child.poll() is not None  # asked first, so that all it did is seen below
        if is_held(folder() / "lock") or not waiting.exists():
            return
        if ended or time.monotonic() > deadline:
            last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
            raise NuggetsError(f"The playground's worker did not start. Its last output: {last[0]}")
        time.sleep(_POLL_S)
