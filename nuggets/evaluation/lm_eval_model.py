"""A model in memory as lm-eval sees it: log-likelihoods and free answers. Imports torch.

Not lm-eval's own `HFLM`: that ties the weights of a model it is given (a student whose head was
untied for training would change), scores in the weights' dtype over the whole vocabulary at every
position, cuts long prompts without counting them, and generates with whatever penalties the
model's generation config holds. The two agree on log-likelihoods (see the tests).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.model import TemplateLM

from nuggets.data.samples import IGNORED, Format, answer_ends, answer_tokens, tokenize
from nuggets.errors import BadInput, NonFinite
from nuggets.evaluation.answer_store import answer_once
from nuggets.evaluation.answers import decode_greedily, up_to_end
from nuggets.evaluation.benchmarks import check_room
from nuggets.evaluation.halving import Halving
from nuggets.evaluation.outcomes import score_batch
from nuggets.models.forward import evaluation, positions
from nuggets.progress import Progress

Response = dict[str, Any]
CHUNK_BATCHES = 4
"""Batches between two commits of answers; a killed run loses at most so many."""


class InMemoryLM(TemplateLM):
    """A causal language model with its tokenizer, as lm-eval's `LM`.

    Attributes:
        truncated: prompts that were cut on the left to fit.
        unfinished: free answers that reached their length limit.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 8,
        max_length: int = 2048,
        format: Format = "paper",
        kept: Path | None = None,
        progress: Progress | None = None,
        label: str = "",
    ) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self._device = torch.device(device)
        self.batch_size = batch_size
        self.format: Format = format
        self.max_length = min(max_length, positions(model))
        self._ends = answer_ends(tokenizer, format)
        self._kept, self._progress, self._label = kept, progress, label
        self._halving = Halving(batch_size, progress)
        self.truncated = self.unfinished = 0

    @property
    def eot_token_id(self) -> int:
        """The end of sequence."""
        return int(self.tokenizer.eos_token_id)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids; a chat template has written its special tokens already."""
        format = self.format
        if add_special_tokens is not None:
            format = "paper" if add_special_tokens else "chat"
        return tokenize(self.tokenizer, [string], format)[0]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        # As `samples.encode`: no blank moves from the prompt into what is scored.
        whole, before = self.tok_encode(context + continuation), self.tok_encode(context)
        name = self._label or "an item"
        return before, answer_tokens(self.tokenizer, whole, before, continuation, name)

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Summed log-likelihood of each continuation, and whether it is the first choice."""
        pairs = [self._encode_pair(*request.args) for request in requests]
        found = self._in_chunks(
            [list(request.args) for request in requests],
            [len(context) + len(answer) for context, answer in pairs],
            lambda places: self._score([pairs[place] for place in places]),
        )
        self.truncated += sum(response["cut"] for response in found)
        return [(response["value"], response["greedy"]) for response in found]

    def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        found = self._score([(context, answer) for _, context, answer in requests])
        return [(response["value"], response["greedy"]) for response in found]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations up to a stop text, the end of sequence or the limit."""
        prompts = [self.tok_encode(request.args[0]) for request in requests]
        settings = [request.args[1] for request in requests]
        found = self._in_chunks(
            [list(request.args) for request in requests],
            [len(prompt) for prompt in prompts],
            lambda places: self._write([prompts[p] for p in places], settings[places[0]]),
        )
        self.truncated += sum(response["cut"] for response in found)
        self.unfinished += sum(not response["finished"] for response in found)
        return [response["value"] for response in found]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Not offered: no benchmark here measures perplexity of whole texts.

        Raises:
            BadInput: Always.
        """
        raise BadInput("Perplexity of whole texts is not supported; choose a different benchmark.")

    def _in_chunks(
        self,
        requests: Sequence[Any],
        lengths: Sequence[int],
        answer: Callable[[list[int]], list[Response]],
    ) -> list[Response]:
        """Answers all requests, the long ones first, and keeps each chunk when it is done."""
        order = sorted(range(len(requests)), key=lambda place: (-lengths[place], place))
        found: list[Response] = [{} for _ in requests]
        step = self.batch_size * CHUNK_BATCHES
        for start in range(0, len(order), step):
            places = order[start : start + step]
            key = _key([self.batch_size, self.max_length, *(requests[p] for p in places)])
            with evaluation(self.model):
                responses = answer_once(self._kept, key, partial(answer, places))
            for place, response in zip(places, responses, strict=True):
                found[place] = response
            self._tell(start + len(places), len(order))
        return found

    def _tell(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress.check_cancelled()
            self._progress.progress(done, total, self._label)

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Response]:
        found = []
        for start in range(0, len(pairs), self.batch_size):
            if self._progress is not None:
                self._progress.check_cancelled()
            batch = pairs[start : start + self.batch_size]
            encoded = [self._fitted(context, answer) for context, answer in batch]
            scores = self._halving.work(
                encoded, lambda rows: score_batch(self.model, rows, self._device)
            )
            for (context, answer), score in zip(batch, scores, strict=True):
                if not math.isfinite(score.log_likelihood):
                    raise NonFinite(
                        f"The model's likelihood of an answer of {self._label or 'an item'} is "
                        f"{score.log_likelihood}, so its answers cannot be evaluated."
                    )
                cut = len(context) + len(answer) > self.max_length
                found.append({"value": score.log_likelihood, "greedy": score.greedy, "cut": cut})
        return found

    def _fitted(self, context: list[int], answer: list[int]) -> tuple[list[int], list[int]]:
        """Ids and labels, cut on the left where they are too long."""
        if not answer or len(answer) >= self.max_length:
            raise BadInput(
                f"An answer of {len(answer)} tokens cannot be scored within {self.max_length}."
            )
        ids = (context + answer)[-self.max_length :]
        return ids, [IGNORED] * (len(ids) - len(answer)) + answer

    def _write(self, prompts: Sequence[list[int]], settings: dict[str, Any]) -> list[Response]:
        limit = int(settings["max_gen_toks"])
        room = check_room(limit, self.max_length)
        stops: list[str] = list(settings.get("until") or [])
        found: list[Response] = []

        def written(asked: Sequence[list[int]]) -> list[list[int]]:
            return decode_greedily(
                self.model,
                asked,
                [limit] * len(asked),
                self._ends,
                self._device,
                stop=lambda _, row: _stop_place(self._text(row), stops) is not None,
                progress=self._progress,
            )

        for start in range(0, len(prompts), self.batch_size):
            batch = prompts[start : start + self.batch_size]
            rows = self._halving.work([prompt[-room:] for prompt in batch], written)
            found += [
                self._answer(row, stops) | {"cut": len(prompt) > room}
                for prompt, row in zip(batch, rows, strict=True)
            ]
        return found

    def _answer(self, row: list[int], stops: Sequence[str]) -> Response:
        tokens, ended = up_to_end(row, self._ends)
        text = self._text(tokens)
        place = _stop_place(text, stops)
        return {
            "value": (text if place is None else text[:place]).strip(),
            "finished": ended or place is not None,
        }

    def _text(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True)


def _stop_place(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop text begins."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return min(places, default=None)


def _key(request: Any) -> str:
    text = json.dumps(request, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]
