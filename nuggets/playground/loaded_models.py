"""The models that the playground's worker holds: each base once, with all adapters on it.

Imports torch.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch

from nuggets.builtin.resolve import model_named
from nuggets.compute.device import default_dtype
from nuggets.compute.memory import return_freed_memory
from nuggets.disk.home import runs_dir
from nuggets.disk.manifest import verify_folder
from nuggets.disk.untrusted import stamp
from nuggets.errors import BadInput, NuggetsError
from nuggets.extraction.adapter import is_wrapped, load_adapter, untie
from nuggets.lens.measure import look
from nuggets.models.references import ModelRef, model_files
from nuggets.planning.machine import resolve_device_name
from nuggets.playground.mailbox import Answer, Question, Speaker, State, Token
from nuggets.playground.questions import ask, prompt_text
from nuggets.runs.devices import device_holder
from nuggets.runs.results import cell_folder
from nuggets.runs.store import RunStore
from nuggets.stages.exporting import ADAPTER, MODEL
from nuggets.stages.measuring import Loaded


class Speakers:
    """Loads whoever is asked for and answers; nothing is loaded twice."""

    def __init__(self) -> None:
        self._device = ""
        self._bases: dict[str, Loaded] = {}
        self._marks: dict[str, str] = {}
        self._adapters: dict[Speaker, str] = {}
        self._numbers = count()  # of adapters, none of which is given twice

    def state(self) -> State:
        """What is in memory."""
        tensors = {
            p.data_ptr(): p.numel() * p.element_size()
            for base in self._bases.values()
            for p in base.model.parameters()
        }
        names = (*self._bases, *(speaker.label for speaker in self._adapters))
        return State(loaded=names, device=self._device, bytes=sum(tensors.values()))

    def answer(
        self, speaker: Speaker, question: Question, on_token: Callable[[Token], None]
    ) -> Answer:
        """What a speaker says; what goes wrong with it is part of its answer.

        Raises:
            Cancelled: as `on_token` does.
        """
        start = time.monotonic()
        try:
            self._move_to(question.device)
            if question.answer is not None:
                return self._look(speaker, question, question.answer, start)
            base, adapter = self._load(speaker)
            with base.threads(), _speaking(base.model, adapter, question.scale):
                ids, tokens, finished = ask(
                    base.model,
                    base.tokenizer,
                    question.prompt,
                    question.max_new_tokens,
                    question.alternatives,
                    on_token,
                    question.format,
                )
        except BadInput as problem:
            return Answer(speaker=speaker, problem=str(problem))
        except torch.cuda.OutOfMemoryError as problem:
            self._forget(speaker.model)
            sentence = f"The device {self._device} has too little memory: {problem}"
            return Answer(speaker=speaker, problem=sentence.splitlines()[0])
        return Answer(
            speaker=speaker,
            text=base.tokenizer.decode(ids, skip_special_tokens=True).strip(),
            tokens=tuple(tokens),
            seconds=time.monotonic() - start,
            finished=finished,
            read=prompt_text(base.tokenizer, question.prompt, question.format),
            note=_unknown_words(base.tokenizer, question.prompt),
        )

    def _look(self, speaker: Speaker, question: Question, right: str, start: float) -> Answer:
        """What is seen in a model while it is given the right answer."""
        base, adapter = self._load(speaker)
        if adapter is not None:
            raise BadInput(
                f"{speaker.label} is an adapter, and only whole models are looked into. Write it "
                f"as one (nuggets export {speaker.run} --arm {speaker.arm} --seed {speaker.seed} "
                "--merged --out DIR) and name its folder."
            )
        if is_wrapped(base.model):  # with adapters of arms on it: their weights are no part of it
            self._forget(speaker.model)
            base, _ = self._load(speaker)
        with base.threads():
            lens = look(
                base.model, base.spec, base.tokenizer, question.prompt, right, question.format
            )
        return Answer(
            speaker=speaker,
            seconds=time.monotonic() - start,
            finished=True,
            read=prompt_text(base.tokenizer, question.prompt, question.format),
            note=_unknown_words(
                base.tokenizer, f"{question.prompt} {right}", "question and answer"
            ),
            lens=lens,
        )

    def _move_to(self, wanted: str) -> None:
        device = resolve_device_name(wanted)
        if device != "cpu" and (holder := device_holder(device)):
            raise BadInput(
                f"Run {holder} is using {device}. Wait for it, or choose the device cpu."
            )
        if device != self._device:
            self._bases.clear()
            self._adapters.clear()
            gc.collect()
            return_freed_memory()
            self._device = device

    def _load(self, speaker: Speaker) -> tuple[Loaded, str | None]:
        """The model that answers, and the name of the adapter to switch on, if any."""
        if speaker.arm is None or speaker.run is None or speaker.seed is None:
            return self._base(speaker.model), None
        run = RunStore(runs_dir()).open(speaker.run)
        folder = cell_folder(run, speaker.arm, speaker.seed)
        if (folder / MODEL).is_dir():
            verify_folder(folder)
            return self._base(str(folder / MODEL)), None
        base = self._base(speaker.model)
        if speaker in self._adapters:
            return base, self._adapters[speaker]
        verify_folder(folder)
        if not (folder / ADAPTER).is_dir():
            return base, None  # an arm that trains nothing is the student itself
        self._attach(base, speaker, folder / ADAPTER)
        return base, self._adapters[speaker]

    def _base(self, model: str) -> Loaded:
        """The model that a name means now: another one may lie there since it was last asked."""
        found = model_named(model)
        mark = _mark(found.ref)
        if model in self._bases and self._marks[model] != mark:
            self._forget(model)
        if model not in self._bases:
            self._bases[model] = Loaded(found, self._device, default_dtype(self._device))
            self._marks[model] = mark
        return self._bases[model]

    def _attach(self, base: Loaded, speaker: Speaker, folder: Any) -> None:
        name = f"adapter{next(self._numbers)}"
        if not is_wrapped(base.model):
            untie(base.model, [base.spec.module("embed")])
        try:
            base.model = load_adapter(base.model, folder, name).eval()
        except NuggetsError:
            self._forget(speaker.model)  # PEFT may have left half an adapter on it
            raise
        self._adapters[speaker] = name

    def _forget(self, model: str) -> None:
        """Drops a base with all its adapters."""
        self._bases.pop(model, None)
        self._adapters = {s: n for s, n in self._adapters.items() if s.model != model}
        gc.collect()
        return_freed_memory()


def _mark(ref: ModelRef) -> str:
    """What changes whenever a file of a local model does; empty where none can."""
    if ref.path is None or ref.shipped:
        return ""
    return "\n".join(f"{name} {stamp(file)}" for name, file in model_files(ref).items())


@contextmanager
def _speaking(model: Any, adapter: str | None, scale: float) -> Iterator[None]:
    """Switches one adapter on at a scale, or all off."""
    from peft.tuners.lora import LoraLayer

    if not is_wrapped(model):
        yield
    elif adapter is None:
        with model.disable_adapter():
            yield
    else:
        model.set_adapter(adapter)
        for module in model.modules():
            if isinstance(module, LoraLayer) and adapter in module.scaling:
                module.set_scale(adapter, scale)
        yield


def _unknown_words(tokenizer: Any, text: str, what: str = "question") -> str:
    if tokenizer.unk_token_id is None:
        return ""
    unknown = tokenizer(text, add_special_tokens=False)["input_ids"].count(tokenizer.unk_token_id)
    return f"{unknown} words of the {what} are not in its vocabulary." if unknown else ""
