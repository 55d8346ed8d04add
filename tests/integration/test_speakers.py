"""The models behind the playground: adapters side by side on one base, at any scale."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from nuggets import api
from nuggets.disk import untrusted
from nuggets.disk.manifest import write_manifest
from nuggets.extraction.adapter import save_adapter
from nuggets.models.loading import load_model, load_tokenizer
from nuggets.playground.loaded_models import Speakers
from nuggets.playground.mailbox import Question, Speaker
from nuggets.playground.questions import ask, prompt_text
from nuggets.runs.results import cell_folder

PROMPT = "reverse k c t a"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> api.Run:
    """A transfer with two arms whose adapters were drawn, of different ranks and scales."""
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    made = api.create(api.load_recipe("quick", ["device=cpu"]))
    for arm, rank in (("plain", 2), ("paper", 3)):
        folder = cell_folder(made, arm, 0)
        (folder / "adapter").mkdir(parents=True)
        spec = api.spec("independent")
        save_adapter(
            folder / "adapter", factors(rank), dict.fromkeys(factors(rank), 0.5), spec, "x", ""
        )
        write_manifest(folder)
    cell_folder(made, "vanilla", 0).mkdir()
    write_manifest(cell_folder(made, "vanilla", 0))
    return made


def factors(rank: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A and B for two matrices of the student."""
    spec, generator = api.spec("independent"), torch.Generator().manual_seed(rank)
    return {
        spec.module(role, layer): (
            torch.randn(rank, spec.shape(role)[1], generator=generator) * 0.3,
            torch.randn(spec.shape(role)[0], rank, generator=generator) * 0.3,
        )
        for role, layer in (("q", 0), ("down", 2))
    }


def merged(rank: int, scale: float) -> list[float]:
    """Probabilities of the student with scale · (alpha / r) · B·A added to its weights."""
    from nuggets.builtin.resolve import resolve

    ref = resolve("independent")
    model = load_model(ref)
    with torch.no_grad():
        for name, (a, b) in factors(rank).items():
            model.get_submodule(name).weight += scale * 0.5 * b @ a
    _, tokens, _ = ask(model, load_tokenizer(ref), PROMPT, 8)
    return [token.probability for token in tokens]


def told(speakers: Speakers, speaker: Speaker, scale: float = 1.0) -> list[float]:
    question = Question(
        speakers=(speaker,), prompt=PROMPT, scale=scale, max_new_tokens=8, device="cpu"
    )
    answer = speakers.answer(speaker, question, lambda token: None)
    assert not answer.problem
    assert all(token.alternatives[0][0] == token.text for token in answer.tokens)
    return [token.probability for token in answer.tokens]


def test_arms_on_one_base_answer_as_if_each_were_merged(run):
    speakers = Speakers()
    plain, paper, vanilla = (
        Speaker(model="independent", run=run.id, arm=arm, seed=0)
        for arm in ("plain", "paper", "vanilla")
    )
    student = Speaker(model="independent")
    untouched = told(speakers, student)
    for speaker, rank in ((plain, 2), (paper, 3), (plain, 2)):
        for scale in (1.0, 0.4):
            assert told(speakers, speaker, scale) == pytest.approx(merged(rank, scale), abs=1e-5)
    assert told(speakers, paper, 0.0) == pytest.approx(untouched, abs=1e-6)
    assert told(speakers, student) == pytest.approx(untouched, abs=1e-6)
    assert told(speakers, vanilla) == pytest.approx(untouched, abs=1e-6)
    loaded = speakers.state().loaded
    assert loaded == ("independent", "plain (seed 0)", "paper (seed 0)")


def test_an_altered_adapter_is_refused_and_the_student_still_answers(run):
    path = cell_folder(run, "paper", 0) / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\x00\x00\xc0\x7f")
    speaker = Speaker(model="independent", run=run.id, arm="paper", seed=0)
    speakers = Speakers()
    question = Question(speakers=(speaker,), prompt=PROMPT, device="cpu")
    answer = speakers.answer(speaker, question, lambda token: None)
    assert "does not match its sha256" in answer.problem
    assert told(speakers, Speaker(model="independent"))


def test_another_model_at_the_same_path_is_the_one_that_answers(tiny, tiny_copy, monkeypatch):
    monkeypatch.setattr(untrusted, "SETTLED_S", -60)  # as if nothing had changed just now
    speakers, folder = Speakers(), tiny_copy()
    before = told(speakers, Speaker(model=str(folder)))
    held = speakers._bases[str(folder)]
    assert told(speakers, Speaker(model=str(folder))) == before
    assert speakers._bases[str(folder)] is held
    shutil.copy(tiny(seed=1) / "model.safetensors", folder)
    after = told(speakers, Speaker(model=str(folder)))
    assert after == told(Speakers(), Speaker(model=str(tiny(seed=1))))
    assert after != before
    shutil.rmtree(folder)
    speaker = Speaker(model=str(folder))
    question = Question(speakers=(speaker,), prompt=PROMPT, device="cpu")
    gone = speakers.answer(speaker, question, lambda token: None)
    assert "There is no folder or file" in gone.problem


def test_questions_too_long_and_words_unknown_are_told(run):
    speakers, student = Speakers(), Speaker(model="independent")
    long = Question(speakers=(student,), prompt="a " * 3000, device="cpu")
    assert "the model accepts at most" in speakers.answer(student, long, lambda token: None).problem
    odd = Question(speakers=(student,), prompt="reverse zebra quux", device="cpu")
    assert "2 words of the question" in speakers.answer(student, odd, lambda token: None).note


def test_a_question_is_written_by_the_chat_template_and_its_end_of_turn_ends_the_answer():
    from nuggets.builtin.resolve import resolve

    model, tokenizer = load_model(resolve("independent")), load_tokenizer(resolve("independent"))
    tokenizer.chat_template = (
        "{% for m in messages %}{{ 'copy ' if m.role == 'assistant' else '' }}{{ m.content }} k "
        "{% endfor %}{% if add_generation_prompt %}copy {% endif %}"
    )
    assert prompt_text(tokenizer, " a t ", "chat") == "a t k copy "
    ids, tokens, finished = ask(model, tokenizer, "a t", 6, format="chat")
    read = tokenizer("a t k copy ", add_special_tokens=False)["input_ids"]
    ends = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("k")}
    expected: list[int] = []
    while len(expected) < 6 and not ends & set(expected):
        logits = model(input_ids=torch.tensor([read + expected])).logits[0, -1]
        expected.append(int(logits.argmax()))
    assert ids == expected
    assert len(tokens) == len(ids)
    assert finished == (ids[-1] in ends)


def lens_of(speakers: Speakers, *who: Speaker, **fields):
    question = Question(speakers=who, prompt=PROMPT, answer="a t c k", device="cpu", **fields)
    return [speakers.answer(speaker, question, lambda token: None) for speaker in who]


def test_a_right_answer_looks_into_models_also_after_arms_sat_on_them(run):
    """Weights of adapters are no part of the student, and its own are named as before."""
    speakers, student = Speakers(), Speaker(model="independent")
    (before,) = lens_of(speakers, student)
    assert before.lens is not None
    assert before.lens.tokens == ("a", "t", "c", "k", "<eos>")
    assert not before.text
    arm = Speaker(model="independent", run=run.id, arm="plain", seed=0)
    told(speakers, arm)
    (after,) = lens_of(speakers, student)
    assert after.lens == before.lens
    (refused,) = lens_of(speakers, arm)
    assert f"nuggets export {run.id} --arm plain --seed 0 --merged --out DIR" in refused.problem
    assert told(speakers, arm) == pytest.approx(merged(2, 1.0), abs=1e-5)


def test_models_with_different_tokenizers_each_read_the_answer_in_their_own_tokens(tiny):
    """The tiny one knows single letters up to t and no `reverse`."""
    who = Speaker(model="teacher"), Speaker(model=str(tiny("gpt2")))
    teacher, other = lens_of(Speakers(), *who)
    assert teacher.lens is not None
    assert other.lens is not None, other.problem
    assert other.lens.tokens == ("a", "t", "c", "k", "<eos>")
    assert len(other.lens.rank) == 3
    assert "words of the question and answer are not in its vocabulary" in other.note
    assert teacher.lens.sentence("teacher") == "teacher knows the whole answer from L1 on."
