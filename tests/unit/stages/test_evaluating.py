"""A teacher that judges by its likelihood: how it is loaded, and what it reads."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from nuggets.data.samples import Sample, encode
from nuggets.errors import BadInput
from nuggets.evaluation.judges import TeacherJudge
from nuggets.evaluation.outcomes import likelihoods, score_batch
from nuggets.models.loading import load_model, load_tokenizer
from nuggets.models.references import parse_ref
from nuggets.stages import evaluating
from nuggets.stages.evaluating import Subject, measure_subjects


def test_a_judging_teacher_is_loaded_once_as_the_job_says(tiny, tmp_path, monkeypatch):
    """And a question that is too long for it loses its beginning, as the model's prompt does."""
    loaded, won = [], []

    class Loaded(evaluating.Loaded):
        def load(self):
            loaded.append(self.dtype)
            return super().load()

    def run_benchmark(task, respondent, ctx, process):
        doc = {"id": "a", "question": "a b " * 20, "reference": "1 2"}
        won.append([process(doc, [answer])[task.judged_by.metric] for answer in ("1 2", "3 4")])

    judge = TeacherJudge(teacher=str(tiny()))
    tasks = [SimpleNamespace(name=name, judged_by=judge, format="paper") for name in ("a", "b")]
    ctx = SimpleNamespace(
        checkpoints=tmp_path, done=lambda name: False, check_cancelled=lambda: None
    )
    monkeypatch.setattr(evaluating, "Loaded", Loaded)
    monkeypatch.setattr(evaluating, "run_benchmark", run_benchmark)
    for name in ("confirm_items", "_commit", "threads_of"):
        monkeypatch.setattr(evaluating, name, lambda *_: nullcontext())
    subjects = [Subject(name, name, lambda: nullcontext((None, None))) for name in ("x", "y")]
    measure_subjects(subjects, tasks, ctx, "cpu", 8, 16, "bfloat16")
    assert loaded == ["bfloat16"]
    assert len(won) == 4
    assert all(first == 0.5 for first, _ in won)
    assert len({second for _, second in won}) == 1


def test_answers_are_scored_after_the_same_rest_of_a_question_that_is_too_long(tiny):
    ref = parse_ref(str(tiny()))
    model, tokenizer = load_model(ref), load_tokenizer(ref)
    samples = [Sample.of(text, "a b c d e f g h", text) for text in ("1", "1 2 3")]
    encoded = [encode(sample, tokenizer) for sample in samples]

    def scored(most):
        options = {"device": "cpu", "max_length": most, "format": "paper"}
        return likelihoods(model, tokenizer, samples, **options)

    def by_hand(lost):
        short = [(ids[lost:], labels[lost:]) for ids, labels in encoded]
        with torch.no_grad():
            return score_batch(model, short, torch.device("cpu"))

    longest = max(len(ids) for ids, _ in encoded)
    assert scored(100) == scored(longest) == by_hand(0)
    assert scored(longest - 3) == by_hand(3)
    assert [each.n_tokens for each in scored(longest - 3)] == [2, 4]
    with pytest.raises(BadInput, match=r"An answer of 4 tokens leaves no room .* within 4\."):
        scored(4)
