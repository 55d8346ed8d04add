"""Benchmark tasks as configuration: where items come from, what is asked, what counts.

Adding one is one class and one line in `Benchmark`. A task knows its items without torch; what
lm-eval needs to score them is `settings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from nuggets.builtin.skills import skill_samples
from nuggets.data.jsonl import check_leakage
from nuggets.data.samples import Format, Sample
from nuggets.data.sources import load_source, spread
from nuggets.errors import BadInput
from nuggets.evaluation import items as make
from nuggets.evaluation.items import Item
from nuggets.evaluation.judges import Judge
from nuggets.evaluation.numbers import NUMBER, same_number
from nuggets.frozen import Frozen

Tree = dict[str, Any]


class Task(Frozen):
    """What all benchmarks share.

    Attributes:
        data: items: JSONL or `org/name:config/split`; the benchmark's home on the hub if absent.
        shots: solved examples above each question.
        shots_data: where examples come from, as `data`. With a file of items and no file of
            examples, the first lines of the file are examples and never asked.
        limit: items at most, at equal distances over the source, which may be sorted by subject;
            all when absent.
        format: how prompts are written.
        max_new_tokens: length limit of free answers; answers that reach it are counted.
    """

    data: str | None = None
    shots: int = Field(default=0, ge=0, le=64)
    shots_data: str | None = None
    limit: int | None = Field(default=None, ge=2)
    format: Format = "paper"
    max_new_tokens: int = Field(default=256, ge=1, le=4096)

    title: ClassVar[str]
    takes_data: ClassVar[bool] = True
    """Whether its items can come from a file of the user's."""
    hub: ClassVar[tuple[str | None, str | None]] = (None, None)
    """Where its items and its examples are on the hub."""
    large: ClassVar[bool] = False
    """Whether that data set is too large to be fetched when somebody presses a button."""
    usual_shots: ClassVar[int] = 0
    headline: ClassVar[str] = "exact_match"

    @property
    def judged_by(self) -> Judge | None:
        """Who scores its answers, if that takes a judge."""
        return None

    @property
    def metric(self) -> str:
        """The outcome that is reported first and compared between arms."""
        return self.headline

    @property
    def name(self) -> str:
        """A word for people and folders, such as `gsm8k-8shot`."""
        kind = str(getattr(self, "kind", "task"))
        chat = "-chat" if self.format == "chat" else ""
        return f"{kind}{f'-{self.shots}shot' if self.usual_shots else ''}{chat}"

    @property
    def source(self) -> str | None:
        """Where the items come from, as written."""
        return self.data or self.hub[0]

    @model_validator(mode="after")
    def _shots_make_sense(self) -> Task:
        if self.shots and not self.usual_shots:
            raise ValueError("this benchmark has no few-shot version; set shots to 0")
        return self

    def items(self) -> list[Item]:
        """The items, examples included, in the order of their source.

        Raises:
            BadInput: if the source cannot be read, has too few lines, or holds an example that
                is also asked.
        """
        asked, examples = self.samples()
        return [self._item(sample, self._examples(sample, examples)) for sample in asked]

    def test_samples(self) -> list[Sample]:
        """The questions without examples, to look for leaks."""
        return self.samples()[0]

    def settings(self) -> Tree:
        """The scoring part of lm-eval's task configuration."""
        raise NotImplementedError

    def _item(self, sample: Sample, examples: Sequence[Sample]) -> Item:
        return make.free_item(sample)

    def _examples(self, sample: Sample, examples: Sequence[Sample]) -> Sequence[Sample]:
        return examples[: self.shots]

    def samples(self) -> tuple[list[Sample], list[Sample]]:
        """Test samples and the examples to choose from; no example is a test sample.

        Raises:
            BadInput: as `items` does.
        """
        kept = 0 if self.shots_data or self.data is None else self.usual_shots
        whole = self._load(self.source, None if kept else self.limit)
        examples, asked = whole[:kept], spread(whole[kept:], self.limit)
        if len(asked) < 2:
            raise BadInput(
                f"{self.source} has {len(whole)} samples; {self.name} needs at least {kept + 2}"
                + (f": the first {kept} are used as few-shot examples." if kept else ".")
            )
        if self.shots and not kept:
            examples = self._load(self.shots_data or self.hub[1], None)
            check_leakage(examples, asked)
        if self.shots > len(examples):
            raise BadInput(f"{self.name} needs {self.shots} examples and has {len(examples)}.")
        return asked, examples

    def _load(self, source: str | None, limit: int | None) -> list[Sample]:
        if source is None:
            raise BadInput(f"{self.name} needs items: set data to a JSONL file or a dataset.")
        return load_source(source, limit, self._row)

    @staticmethod
    def _row(row: Tree) -> Tree:
        return row


class Gsm8k(Task):
    """Grade-school word problems; exact match of the last number (Cobbe et al. 2021)."""

    kind: Literal["gsm8k"] = "gsm8k"

    title = "GSM8K, word problems"
    hub = ("openai/gsm8k:main/test", "openai/gsm8k:main/train")
    usual_shots = 8
    headline = "exact_match,last-number"

    def settings(self) -> Tree:
        """Free text; the last number counts, and beside it the number after `answer is`."""
        return _free(self.max_new_tokens, "Question:") | {
            "process_results": same_number,
            "metric_list": [_mean("exact_match")],
            "filter_list": [
                _filter("last-number", NUMBER, -1),
                _filter("answer-is", "answer is:? " + NUMBER, 0),
            ],
        }

    def _item(self, sample: Sample, examples: Sequence[Sample]) -> Item:
        return make.gsm8k_item(sample, examples)

    _row = staticmethod(make.gsm8k_row)


class Mmlu(Task):
    """Multiple choice over 57 subjects; accuracy by likelihood (Hendrycks et al. 2021)."""

    kind: Literal["mmlu"] = "mmlu"

    title = "MMLU, multiple choice"
    hub = ("cais/mmlu:all/test", "cais/mmlu:all/dev")
    usual_shots = 5
    headline = "acc"

    def settings(self) -> Tree:
        """The letter of largest likelihood counts."""
        return _choice() | {"metric_list": [_mean("acc")]}

    def _item(self, sample: Sample, examples: Sequence[Sample]) -> Item:
        return make.mmlu_item(sample, examples)

    def _examples(self, sample: Sample, examples: Sequence[Sample]) -> Sequence[Sample]:
        """Examples of the item's own subject come first; others fill up."""
        subject = make.mmlu_subject(sample)
        own = [e for e in examples if make.mmlu_subject(e) == subject]
        return [*own, *(e for e in examples if e not in own)][: self.shots]

    _row = staticmethod(make.mmlu_row)


class SuperNi(Task):
    """Super-NaturalInstructions: exact match and ROUGE-L (Wang et al. 2022)."""

    kind: Literal["super_ni"] = "super_ni"

    title = "Super-NaturalInstructions"
    large = True
    hub = ("Muennighoff/natural-instructions:test", None)
    headline = "rougeL"

    def settings(self) -> Tree:
        """Free text against the whole reference."""
        from nuggets.evaluation.rouge import exact_and_rouge

        return _free(self.max_new_tokens) | {
            "process_results": exact_and_rouge,
            "metric_list": [_mean("exact_match"), _mean("rougeL")],
        }

    _row = staticmethod(make.super_ni_row)


class SkillTask(Task):
    """A built-in skill, scored as the evaluation during training scores it."""

    title = "the task's own skill"
    takes_data = False
    kind: Literal["skill"] = "skill"
    skill: str

    @property
    def name(self) -> str:
        """`skill-reverse`, for example."""
        return f"skill-{self.skill}" + ("-chat" if self.format == "chat" else "")

    @property
    def source(self) -> str | None:
        """The skill's name."""
        return self.skill

    def settings(self) -> Tree:
        """All choices compete with their ends; a skill without choices has the one answer."""
        metrics = [_mean("exact_match"), _mean("choice"), _mean("loss", better=False)]
        return _choice() | {"process_results": _skill_metrics, "metric_list": metrics}

    def samples(self) -> tuple[list[Sample], list[Sample]]:
        """The skill's test items, and no examples."""
        return skill_samples(self.skill, "test", self.limit), []

    def _item(self, sample: Sample, examples: Sequence[Sample]) -> Item:
        choices = sample.choices or (sample.answer,)
        right = sample.place if sample.choices else 0
        return Item(sample=sample, target=sample.answer, choices=choices, right=right)


class Dialogue(Task):
    """Open-ended answers: how often a judge prefers them to the reference's (win rate).

    Attributes:
        judge: an OpenAI-compatible endpoint, or a teacher's likelihood.
    """

    title = "dialogue, judged by the teacher's likelihood"
    kind: Literal["dialogue"] = "dialogue"
    judge: Judge

    @property
    def judged_by(self) -> Judge:
        """The judge."""
        return self.judge

    @property
    def name(self) -> str:
        """Says who judged, since the two are not the same measure."""
        return f"{super().name}-{self.judge.kind}"

    @property
    def metric(self) -> str:
        """Win rate, named after who judged."""
        return self.judge.metric

    def settings(self) -> Tree:
        """Free text; whoever runs it adds `process_results`, which asks the judge."""
        metrics = [_mean(metric) for metric in self.judge.metrics]
        return _free(self.max_new_tokens) | {"metric_list": metrics}


def check_room(max_new_tokens: int, max_length: int) -> int:
    """Tokens that a prompt may have before an answer of so many.

    Raises:
        BadInput: if there is no room for one.
    """
    if max_new_tokens >= max_length:
        raise BadInput(
            f"Answers of {max_new_tokens} tokens leave no room for a prompt within {max_length}. "
            "Lower max_new_tokens or raise max_length."
        )
    return max_length - max_new_tokens


def _choice() -> Tree:
    return {
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": "right",
        "target_delimiter": "",
    }


def _free(max_new_tokens: int, *stops: str) -> Tree:
    return {
        "output_type": "generate_until",
        "doc_to_target": "target",
        "generation_kwargs": {
            "until": [*stops, "<|user|>"],
            "max_gen_toks": max_new_tokens,
            "do_sample": False,
        },
    }


def _mean(metric: str, better: bool = True) -> Tree:
    return {"metric": metric, "aggregation": "mean", "higher_is_better": better}


def _filter(name: str, pattern: str, select: int) -> Tree:
    regex = {"function": "regex", "regex_pattern": pattern, "group_select": select}
    return {"name": name, "filter": [regex, {"function": "take_first"}]}


def _skill_metrics(doc: Tree, results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    likelihoods = [likelihood for likelihood, _ in results]
    right = doc["right"]
    values = {
        "exact_match": float(results[right][1]),
        "loss": -likelihoods[right] / doc["n_tokens"],
    }
    if len(results) > 1:
        best = max(range(len(results)), key=lambda place: likelihoods[place])  # ties: the first
        values["choice"] = float(doc["choices"][best] == doc["choices"][right])
    return values


Benchmark = Annotated[SkillTask | Gsm8k | Mmlu | SuperNi | Dialogue, Field(discriminator="kind")]
"""Every benchmark, chosen by `kind`."""
