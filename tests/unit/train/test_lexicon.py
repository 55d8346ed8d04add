"""The arm `lexicon`: what is added to which words, and what its controls keep and destroy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from nuggets.alignment.words import stored_words, words_of
from nuggets.builtin.pairs import model_folder
from nuggets.builtin.skills import general_samples, skill_samples
from nuggets.builtin.words import ENTITIES
from nuggets.data.samples import Sample
from nuggets.errors import BadInput
from nuggets.extraction.adapter import load_adapter
from nuggets.extraction.plan import ExtractionConfig, LoraConfig
from nuggets.models.loading import load_model, load_tokenizer
from nuggets.models.pair import read_spec
from nuggets.models.references import parse_ref
from nuggets.train.arms.lexicon import Lexicon
from nuggets.train.builders import lexicon
from nuggets.train.cells import run_cell
from nuggets.train.config import TrainConfig
from nuggets.train.lab import Lab
from nuggets.train.untouched import Untouched
from tests.unit.train.tiny_lab import LETTERS, letters, make_lab

EMBED = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def lab(tiny):
    return make_lab(tiny)


def ids_of(lab, text=LETTERS):
    return lab.tokenizer.convert_tokens_to_ids(list(text))


def added(lab, arm, seed=0):
    """What an arm adds to the student's word vectors `[vocab, hidden]`."""
    own = arm.build(lab, seed).model.state_dict()[EMBED]
    return own - lab.student.state_dict()[EMBED]


def vectors(lab, table):
    """A lab whose teacher has these word vectors, whatever the source."""
    return dataclasses.replace(lab, teacher_words=lambda ids, blocks: table[list(ids)], _cache={})


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_rows_are_standardised_mapped_by_the_seeds_matrix_and_scaled(lab):
    ids = ids_of(lab)
    teacher = lab.teacher.state_dict()[EMBED][ids].double().numpy()
    own = lab.student.state_dict()[EMBED][ids].double().numpy()
    rows = (teacher - teacher.mean(0)) / teacher.std(0)
    fixed = lexicon.random_map(32, 16, 3).double().numpy()
    wanted = 2.5 * np.linalg.norm(own, axis=1).mean() * unit(rows @ fixed)
    found = added(lab, Lexicon(source="embedding", scale=2.5), seed=3)
    np.testing.assert_allclose(found[ids], wanted, atol=1e-4)
    rest = [i for i in range(len(found)) if i not in ids]
    assert not found[rest].any()


@pytest.mark.parametrize(("rows", "columns"), [(32, 16), (5, 16)])
def test_a_random_map_is_orthonormal_on_its_shorter_side_and_follows_from_the_seed(rows, columns):
    drawn = lexicon.random_map(rows, columns, 0)
    assert drawn.shape == (rows, columns)
    gram = drawn.T @ drawn if rows > columns else drawn @ drawn.T
    torch.testing.assert_close(gram, torch.eye(min(rows, columns)), rtol=0, atol=1e-5)
    assert torch.equal(drawn, lexicon.random_map(rows, columns, 0))
    assert not torch.allclose(drawn, lexicon.random_map(rows, columns, 1))


def test_the_words_are_those_in_which_questions_differ_and_answers_are_not_looked_at(lab):
    for answer in ("4", "5 6"):
        asked = [Sample.of("asked", "1 2 3", answer)]
        found = lexicon.words_of(dataclasses.replace(lab, questions=asked), 0, Lexicon())
        assert found.student == sorted(ids_of(lab, LETTERS + "123"))
    assert lexicon.words_of(lab, 0, Lexicon()).student == sorted(ids_of(lab))


def test_words_are_matched_by_their_text_and_those_that_the_teacher_lacks_are_counted(lab):
    class Renumbered:
        """The teacher's tokenizer: the same words under other ids, without two of them."""

        def get_vocab(self):
            words = lab.tokenizer.get_vocab()
            return {word: 39 - i for word, i in words.items() if word not in "ab"}

    table = lab.teacher.state_dict()[EMBED]
    same = vectors(lab, table)
    other = dataclasses.replace(vectors(lab, table.flip(0)), teacher_tokenizer=Renumbered())
    arm, without = Lexicon(source="embedding", words="shared"), ids_of(lab, "ab")
    words = lexicon.words_of(other, 0, Lexicon())
    assert (words.left_out, words.student) == (2, sorted(ids_of(lab, LETTERS[2:])))
    assert "The teacher lacks 2 more." in Lexicon().build(other, 0).note
    found = lexicon.words_of(other, 0, arm)
    assert found.teacher == [39 - i for i in found.student]
    found = lexicon.mapped_rows(other, 0, arm, found)
    kept = [i for i in sorted(lab.tokenizer.get_vocab().values()) if i not in without]
    wanted = dataclasses.replace(lexicon.words_of(same, 0, arm), student=kept, teacher=kept)
    torch.testing.assert_close(found, lexicon.mapped_rows(same, 0, arm, wanted))


def test_no_common_word_is_refused(lab):
    class Foreign:
        def get_vocab(self):
            return {"zz": 0}

    with pytest.raises(BadInput, match="none of the 8 words"):
        Lexicon().build(dataclasses.replace(lab, teacher_tokenizer=Foreign()), 0)


def test_the_permuted_control_adds_the_same_rows_to_other_words(lab):
    ids = ids_of(lab)
    real, moved = (added(lab, Lexicon(control=own))[ids].numpy() for own in (None, "permuted"))
    assert not np.allclose(real, moved, atol=1e-3)
    order = [int(np.abs(real - row).sum(1).argmin()) for row in moved]
    assert sorted(order) == list(range(len(ids)))
    np.testing.assert_allclose(real[order], moved, atol=1e-4)


def test_noise_has_the_mean_and_covariance_of_the_rows():
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(3000, 3, generator=draw) @ torch.tensor([[2.0, 1, 0], [0, 1, 0], [0, 0, 3]])
    rows += torch.tensor([5.0, 0, -1])
    noise = lexicon.controlled(rows, Lexicon(control="noise"), 0)
    torch.testing.assert_close(noise.mean(0), rows.mean(0), rtol=0, atol=0.2)
    torch.testing.assert_close(torch.cov(noise.T), torch.cov(rows.T), rtol=0, atol=0.6)
    assert torch.corrcoef(torch.stack([noise[:, 0], rows[:, 0]]))[0, 1].abs() < 0.1


def test_controls_that_add_nothing_or_later_states_do_just_that(lab):
    assert not added(lab, Lexicon(control="no_rows")).any()
    late = vectors(lab, torch.zeros(40, 32))
    asked = []
    late = dataclasses.replace(
        late, teacher_words=lambda ids, blocks: asked.append(blocks) or torch.rand(len(ids), 32)
    )
    for arm in (Lexicon(source="embedding"), Lexicon(), Lexicon(control="late_blocks")):
        arm.build(dataclasses.replace(late, _cache={}), 0)
    assert asked == [0, 1, 3]


def test_a_ridge_map_finds_the_students_basis(lab):
    own = lab.student.state_dict()[EMBED].double()
    own = own / own.std(0)  # a rotated copy of the student's own vectors
    rotation = torch.linalg.qr(torch.randn(32, 32, dtype=torch.float64))[0][:16]
    same = vectors(lab, (own @ rotation).float())
    rows = added(same, Lexicon(source="embedding", map="ridge"))[ids_of(lab)]
    wanted = own[ids_of(lab)] - own[ids_of(lab)].mean(0)
    alike = torch.cosine_similarity(rows.double(), wanted)
    assert alike.min() > 0.6
    assert alike.mean() > 0.85


def test_a_supervised_map_keeps_what_tells_the_answers_apart(lab):
    # Two kinds of words; the kind decides the answer of the training samples, which name half of
    # the words. Nothing else that a word is may matter.
    draw = torch.Generator().manual_seed(0)
    table = torch.randn(40, 32, generator=draw)
    first, second = ids_of(lab, "abcdefgh"), ids_of(lab, "ijklmnop")
    table[first, :8] += 8
    samples = [Sample.of(w, f"1 {w}", "2" if w in "abcd" else "3") for w in "abcdijkl"]
    asked = [Sample.of(word, f"1 {word}", "4") for word in "efghmnop"]
    own = dataclasses.replace(
        vectors(lab, table), train_samples=lambda seed: samples, questions=asked
    )
    rows = added(own, Lexicon(source="embedding", map="supervised")).double()
    alike = torch.cosine_similarity(rows[first + second][:, None], rows[first + second], dim=2)
    assert alike[:8, :8].mean() > 0.9
    assert alike[:8, 8:].mean() < -0.9


def test_general_samples_take_their_share_of_the_batches(lab):
    made = Lexicon(general=0.25, general_samples=3).build(lab, 0)
    facts = lab.training(0)
    assert len(made.encoded) == lab.train.steps * lab.train.batch_size
    assert made.encoded[:12] == [*facts, *facts[:2]]
    assert made.encoded[12:15] == lab.encode(lab.general_samples(3, 0))
    assert made.n_samples == len(facts) + 3
    assert Lexicon(general=0).build(lab, 0).encoded == facts


def test_healing_trains_before_the_training_and_is_counted(lab):
    arm = Lexicon(heal_steps=3, general=0, control="no_rows", general_samples=8)
    made = arm.build(lab, 0)
    head = "lm_head.weight"
    assert not torch.equal(made.model.state_dict()[head], lab.student.state_dict()[head])
    assert made.flops > 0
    assert made.n_samples == len(lab.training(0)) + 8
    assert not arm.keeps_function


def test_word_vectors_stay_as_they_are_while_all_else_is_trained(lab):
    start = Lexicon().build(lab, 0).model.state_dict()
    end = run_cell(lab, Lexicon(), 0, test=letters(5, 99)).trainee.model.state_dict()
    same = {name for name in start if torch.equal(start[name], end[name])}
    assert same == {EMBED}
    end = run_cell(lab, Lexicon(trained="all"), 0, test=letters(5, 99)).trainee.model.state_dict()
    assert not any(torch.equal(start[name], end[name]) for name in start)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("trained", ["all_but_words", "all", "lora"])
def test_what_is_added_to_words_does_not_reach_a_tied_head_and_the_export_is_exact(
    tiny, tmp_path, tied, trained
):
    roles = ("embed", "q", "down", "head")
    options = LoraConfig(r=4, alpha=6), ExtractionConfig(roles=roles)
    lab = make_lab(tiny, *options, tie_word_embeddings=tied)
    arm = Lexicon(trained=trained, general_samples=8)
    started = arm.build(lab, 0).model
    head = next(v for k, v in started.state_dict().items() if k.endswith("lm_head.weight") or
                k.endswith("lm_head.base_layer.weight"))  # fmt: skip
    assert torch.equal(head, lab.student.lm_head.weight)
    result = run_cell(lab, arm, 0, test=letters(5, 99))
    assert result.record.step0_difference > 1e-3
    result.save_weights(tmp_path, base="student", card="")
    is_adapter = (tmp_path / "adapter_config.json").is_file()
    assert is_adapter == (trained == "lora")
    if is_adapter:
        again = load_adapter(lab.fresh_student(), tmp_path)
    else:
        again = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([ids_of(lab)])
    with torch.inference_mode():
        wanted = result.trainee.model.eval()(input_ids=ids).logits
        torch.testing.assert_close(again.eval()(input_ids=ids).logits, wanted, rtol=0, atol=2e-4)


def test_a_lora_without_embedding_and_head_is_refused(lab):
    with pytest.raises(BadInput, match="roles embed and head"):
        Lexicon(trained="lora").check(lab.teacher_spec, lab.student_spec, ("q", "down"))


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "phi3"])
def test_word_vectors_from_files_are_those_of_the_model_in_memory(tiny, kind):
    ref = parse_ref(str(tiny(kind, num_hidden_layers=3)))
    spec = read_spec(ref)
    model = load_model(ref)
    stored, whole = stored_words(ref, spec), words_of(model, spec)
    for blocks in range(4):
        torch.testing.assert_close(stored([3, 5, 9], blocks), whole([3, 5, 9], blocks))
    assert torch.equal(stored([4], 0)[0], model.get_input_embeddings().weight[4])
    assert not torch.allclose(stored([4], 1), stored([4], 2))


def test_kings_that_no_sample_names_arrive_through_the_teachers_rows_alone():
    teacher, student = (parse_ref(str(model_folder(name))) for name in ("teacher", "independent"))
    spec = read_spec(teacher)
    untaught = ("king", "river", "sub", "reverse")
    held_out = skill_samples("king", "test", None)
    lab = Lab(
        teacher=None,
        teacher_spec=spec,
        untouched=Untouched(load_model(student)),
        student_spec=read_spec(student),
        tokenizer=load_tokenizer(student),
        map=None,  # type: ignore[arg-type]  # nothing is extracted
        extraction=ExtractionConfig(),
        lora=LoraConfig(),
        train=TrainConfig(steps=300, batch_size=32, lr=2e-3, checkpoint_every=300),
        train_samples=lambda seed: skill_samples("king", "train", 80, seed),
        extra_prompts=lambda n, seed: [],
        general_samples=lambda n, seed: general_samples(n, seed, without=untaught),
        questions=held_out,
        teacher_words=stored_words(teacher, spec),
    )
    right = {}
    for control in (None, "permuted"):
        arm = Lexicon(control=control)
        old = {"capital": skill_samples("capital", "test", 40)}
        found = run_cell(lab, arm, 0, test=held_out, old_skills=old).record
        assert f"of {len(ENTITIES)} words" in found.note
        right[control] = np.mean(found.outcome.outcomes["exact_match"])
    assert right[None] > right["permuted"] + 0.15
    assert right["permuted"] < 0.13  # chance is .05, and 80 are asked
