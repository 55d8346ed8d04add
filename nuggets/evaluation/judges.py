"""Who prefers which of two answers: any OpenAI-compatible endpoint, or a teacher.

Every pair is judged in both orders, since judges favour a place (Zheng et al. 2023, "Judging
LLM-as-a-judge"); a win is the mean of the two verdicts, a tie counts one half.
"""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from nuggets.errors import NuggetsError
from nuggets.frozen import Frozen
from nuggets.progress import Progress

Judgement = Literal["win", "tie", "loss", "unreadable"]
WORTH: dict[Judgement, float] = {"win": 1.0, "tie": 0.5, "loss": 0.0, "unreadable": 0.5}
"""What a judgement adds; what cannot be read counts as a tie and is counted apart."""

MAX_WAIT_S = 30.0
_SLICE_S = 0.2
_MAX_REPLY_BYTES = 1_000_000
_MAX_REASON_BYTES = 2_000
_INSTRUCTION = (
    "You compare two answers to the same message. Judge how helpful, correct and clear they are, "
    "not how long they are or in which order they stand. Reply with one letter and nothing else: "
    "A if answer A is better, B if answer B is better, T if they are equally good."
)
_LETTER = re.compile(r"\b([ABT])\b")


class EndpointJudge(Frozen):
    """A model behind an OpenAI-compatible endpoint.

    Attributes:
        url: the base address, such as `http://localhost:8000/v1`; never with a key in it.
        model: the judge's name there.
        key_env: the environment variable that the recipe expects the key in. It gives no right to
            it: which key goes where is this machine's matter (`nuggets judge allow`).
        timeout: seconds to wait for one reply.
        attempts: how often one question is put before the run stops; it can then be resumed.
    """

    kind: Literal["endpoint"] = "endpoint"
    url: str
    model: str
    key_env: str | None = None
    timeout: float = Field(default=60.0, gt=0, le=600)
    attempts: int = Field(default=5, ge=1, le=10)

    metric: ClassVar[str] = "win_rate"
    metrics: ClassVar[tuple[str, ...]] = (
        "win_rate",
        "win_as_first",
        "win_as_second",
        "unreadable_verdicts",
    )

    @field_validator("url")
    @classmethod
    def _bare(cls, url: str) -> str:
        return bare_url(url)


def bare_url(url: str) -> str:
    """A judge's address in the one form in which addresses are compared.

    Raises:
        ValueError: if it is not `https://host/v1`, or holds a user, a key or a query.
    """
    plain = url.isascii() and url.isprintable() and not set(url) & set(" \\")
    parts = urlsplit(url)
    if not plain or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the judge's address must look like https://host/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            "the judge's address must hold no user, key or query; say which key is sent there "
            "with `nuggets judge allow`"
        )
    port = "" if parts.port is None else f":{parts.port}"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}{parts.path}".rstrip("/")


class TeacherJudge(Frozen):
    """A teacher's likelihood: it prefers the answer that it finds more likely.

    This does not judge quality, and is reported under a separate name.
    """

    kind: Literal["teacher_likelihood"] = "teacher_likelihood"
    teacher: str

    metric: ClassVar[str] = "teacher_likelihood_win_rate"
    metrics: ClassVar[tuple[str, ...]] = ("teacher_likelihood_win_rate",)


Judge = Annotated[EndpointJudge | TeacherJudge, Field(discriminator="kind")]


def verdict_metrics(verdicts: tuple[Judgement, Judgement]) -> dict[str, float]:
    """One item's outcomes from its verdicts as first and as second answer."""
    first, second = (WORTH[verdict] for verdict in verdicts)
    return {
        "win_rate": (first + second) / 2,
        "win_as_first": first,
        "win_as_second": second,
        "unreadable_verdicts": verdicts.count("unreadable") / 2,
    }


class JudgeClient:
    """Asks an endpoint, with bounded retries; nothing it says or raises contains the key.

    Args:
        config: the endpoint.
        permit: gives the key, empty for none, or refuses; asked before every request.
        progress: can cancel a wait.
        sleep: waits.
    """

    def __init__(
        self,
        config: EndpointJudge,
        permit: Callable[[EndpointJudge], str],
        progress: Progress | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._config, self._progress, self._sleep = config, progress, sleep
        self._permit, self._key = permit, ""
        # A redirect would carry the key to another host.
        self._open = urllib.request.build_opener(_NoRedirect()).open

    def compare(self, question: str, ours: str, reference: str) -> tuple[Judgement, Judgement]:
        """How our answer does against the reference, standing first and standing second.

        Raises:
            NuggetsError: if the endpoint refuses, or does not answer within the attempts.
            Cancelled: if somebody asked to stop meanwhile.
        """
        first = self._ask(question, ours, reference)
        second = self._ask(question, reference, ours)
        as_first: dict[str, Judgement] = {"A": "win", "B": "loss", "T": "tie"}
        as_second: dict[str, Judgement] = {"A": "loss", "B": "win", "T": "tie"}
        return as_first.get(first, "unreadable"), as_second.get(second, "unreadable")

    def _ask(self, question: str, a: str, b: str) -> str:
        """A, B or T; an empty text where the judge said something else twice."""
        text = f"Message:\n{question}\n\nAnswer A:\n{a}\n\nAnswer B:\n{b}"
        for _ in range(2):
            found = _LETTER.findall(self._reply(text))
            if len(set(found)) == 1:
                return found[0]
        return ""

    def _reply(self, text: str) -> str:
        body = {
            "model": self._config.model,
            "messages": [
                {"role": "system", "content": _INSTRUCTION},
                {"role": "user", "content": text},
            ],
            "temperature": 0,
            "max_tokens": 16,
        }
        reason = ""
        for attempt in range(self._config.attempts):
            if attempt:
                self._pause(min(2.0 ** (attempt - 1), MAX_WAIT_S))
            try:
                return self._post(body)
            except urllib.error.HTTPError as problem:
                reason = f"HTTP status {problem.code}"
                with problem:  # it holds the connection
                    said = self._said(problem)
                if problem.code not in (408, 409, 425, 429) and problem.code < 500:
                    raise self._failed(f"refused with {reason}: {said}") from None
            except (OSError, ValueError, KeyError, IndexError, TypeError) as problem:
                reason = self._hidden(str(problem)) or type(problem).__name__
        raise self._failed(
            f"did not answer in {self._config.attempts} attempts ({reason}). Its judgements so "
            "far are saved; resume the run once it is available"
        )

    def _post(self, body: dict[str, Any]) -> str:
        headers = {"Content-Type": "application/json"}
        self._key = self._permit(self._config)
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(  # noqa: S310 - only http and https pass validation
            f"{self._config.url}/chat/completions", json.dumps(body).encode(), headers
        )
        with self._open(request, timeout=self._config.timeout) as reply:
            content = json.loads(reply.read(_MAX_REPLY_BYTES))["choices"][0]["message"]["content"]
        return content if isinstance(content, str) else ""

    def _pause(self, seconds: float) -> None:
        while seconds > 0:
            if self._progress is not None:
                self._progress.check_cancelled()
            self._sleep(min(seconds, _SLICE_S))
            seconds -= _SLICE_S

    def _said(self, problem: urllib.error.HTTPError) -> str:
        try:
            text = problem.read(_MAX_REASON_BYTES).decode(errors="replace")
        except OSError:
            text = ""
        text = text[: _MAX_REASON_BYTES - len(self._key)]  # a key may be cut where reading ended
        return " ".join(self._hidden(text).split())[:200] or "no reason given"

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "…") if self._key else text

    def _failed(self, what: str) -> NuggetsError:
        no_key = "" if self._key else " No key was sent."
        return NuggetsError(f"The judge at {self._config.url} {what}.{no_key}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None
