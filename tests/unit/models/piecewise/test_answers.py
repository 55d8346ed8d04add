"""Losses over chunks of answer positions, against autograd through the whole logits."""

from __future__ import annotations

import copy
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from nuggets.extraction.adapter import add_lora
from nuggets.extraction.plan import LoraConfig
from nuggets.models.architecture import ArchSpec
from nuggets.models.loading import load_model
from nuggets.models.piecewise import answers
from nuggets.models.references import parse_ref
from nuggets.train.losses import DistillationLoss, answer_loss, surprise
from tests.architectures import EACH

IGNORED = -100
GIVEN = 1.7
"""What the loss is multiplied by before it is differentiated."""


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Three positions reach the head at once."""
    monkeypatch.setattr(answers, "positions_at_once", lambda *_: 3)


def batch(rows=4, length=9, seed=0):
    """Token ids, and labels with gaps; the first row has no answer."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 36, (rows, length), generator=draw)
    labels = torch.where(torch.rand(ids.shape, generator=draw) < 0.5, ids, IGNORED)
    labels[0] = IGNORED
    labels[-1, -1] = ids[-1, -1]
    return ids, labels


def whole_loss(model, ids, labels):
    """Plain cross entropy of all logits, by the model's own forward pass."""
    logits = model(input_ids=ids, use_cache=False).logits.float()
    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def differentiated(model, loss, ids, labels):
    model.zero_grad(set_to_none=True)
    value = loss(model, ids, labels)
    (GIVEN * value).backward()
    named = model.named_parameters()
    return value.detach(), {n: p.grad.clone() for n, p in named if p.grad is not None}


def assert_equal(model, ours, plain, ids, labels):
    value, gradients = differentiated(model, ours, ids, labels)
    wanted, expected = differentiated(model, plain, ids, labels)
    torch.testing.assert_close(value, wanted, atol=1e-6, rtol=1e-6)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=2e-5)


@pytest.mark.parametrize("kind", EACH)
def test_every_architectures_own_head_gives_the_loss_and_all_gradients(kind, tiny):
    """Capped in Gemma 2, scaled in Granite and Cohere, with a bias in Phi."""
    model = load_model(parse_ref(str(tiny(kind)))).requires_grad_(True)
    assert_equal(model, answer_loss, whole_loss, *batch())


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("roles", [("q", "head"), ("embed", "down"), ("head",)])
def test_adapters_of_head_and_embedding_get_their_gradients(roles, tied, tiny):
    model = load_model(parse_ref(str(tiny("llama", tie_word_embeddings=tied))))
    spec = ArchSpec.from_config(model.config.to_dict())
    ranks = {spec.module(role, 0): 4 for role in roles}
    adapted = add_lora(model, ranks, LoraConfig(r=4, alpha=7))
    for name, parameter in adapted.named_parameters():
        if "lora" in name:  # B starts at 0, and A would get no gradient
            torch.nn.init.normal_(parameter.data, std=0.1, generator=torch.manual_seed(1))
    assert_equal(adapted, answer_loss, whole_loss, *batch())


@given(
    rows=st.integers(1, 5), length=st.integers(2, 12), seed=st.integers(0, 99), n=st.integers(1, 40)
)
@settings(deadline=None, max_examples=25)
def test_the_loss_depends_on_no_chunk(rows, length, seed, n):
    model, ids, labels = random_llama(), *batch(rows, length, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "positions_at_once", lambda *_: n)
        assert_equal(model, answer_loss, whole_loss, ids, labels)


def random_llama(**more):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=36, num_hidden_layers=1, **sizes, **more))


def test_lanes_get_the_means_of_their_own_answers(tiny):
    """Lane 0 has no answer, lanes 1 and 2 some of their answers here and others elsewhere."""
    model, (ids, labels) = random_llama(), batch(rows=6)
    labels[:2] = IGNORED
    totals = torch.tensor([0, 11, 20])
    total, means = answers.at_answers(
        model, ids, labels, lambda found: found.means(surprise, totals), n_lanes=3
    )
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    each = surprise(logits, labels[:, 1:]).sum(1).view(3, 2).sum(1)
    torch.testing.assert_close(means, (each / totals.clamp(min=1)).detach())
    torch.testing.assert_close(total, means.sum())


def test_distillation_from_another_vocabulary_equals_the_plain_distance(tiny):
    teacher, student = (
        load_model(parse_ref(str(tiny("llama", vocab_size=size, seed=size)))) for size in (48, 40)
    )
    student.requires_grad_(True)

    def plain(model, ids, labels):
        wanted = labels[:, 1:] != IGNORED
        p, q = (
            m(input_ids=ids).logits[:, :-1][wanted][:, :40].log_softmax(-1)
            for m in (teacher, model)
        )
        return (p.exp() * (p - q)).sum(-1).mean()

    assert_equal(student, DistillationLoss(teacher, 40), plain, *batch())


def test_only_positions_with_an_answer_reach_the_head_a_chunk_at_once():
    model, (ids, labels) = random_llama(), batch()
    seen = []
    model.lm_head.register_forward_hook(lambda _, __, logits: seen.append(logits.shape[:2].numel()))
    answer_loss(model, ids, labels).backward()
    assert max(seen) == 3
    assert sum(seen) == int((labels[:, 1:] != IGNORED).sum())


def test_nothing_as_wide_as_the_vocabulary_is_kept_for_the_backward_pass():
    model, (ids, labels) = random_llama(), batch(length=10)
    alive = weakref.WeakSet()

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor
            alive.add(self)

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        loss = answer_loss(model, ids, labels)
        held = [kept.tensor for kept in alive]
        plain = whole_loss(model, ids, labels)
        of_plain = [kept.tensor for kept in alive]
    assert loss.requires_grad
    assert plain.requires_grad
    ours, theirs = ([t.shape for t in each if 36 in t.shape] for each in (held, of_plain))
    weights = {model.lm_head.weight.shape, model.lm_head.weight.shape[::-1]}
    assert set(ours) <= weights
    assert set(theirs) - weights


def test_a_batch_without_answers_has_no_loss_and_no_gradient():
    model, (ids, labels) = random_llama(), batch()
    loss = answer_loss(model, ids, torch.full_like(labels, IGNORED))
    loss.backward()
    assert loss == 0
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


def test_half_precision_adds_the_heads_gradient_up_in_float32():
    """Twenty chunks of one position; in bfloat16 each sum would lose what is small beside it."""
    model = random_llama().to(torch.bfloat16)
    ids, labels = batch(rows=6, length=20)
    exact = copy.deepcopy(model).float()
    _, found = differentiated(model, answer_loss, ids, labels)
    _, whole = differentiated(model, whole_loss, ids, labels)
    _, wanted = differentiated(exact, whole_loss, ids, labels)
    name = "lm_head.weight"
    ours, plain = ((each[name].float() - wanted[name]).norm() for each in (found, whole))
    assert ours < 1.2 * plain


def test_without_gradients_the_loss_is_the_same():
    model, (ids, labels) = random_llama(), batch()
    with torch.no_grad():
        assert answer_loss(model, ids, labels) == answer_loss(model, ids, labels)
        torch.testing.assert_close(answer_loss(model, ids, labels), whole_loss(model, ids, labels))


def test_a_loss_is_differentiated_once():
    model, (ids, labels) = random_llama(), batch()
    loss = answer_loss(model, ids, labels)
    loss.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="differentiated before"):
        loss.backward()


def test_threads_that_share_a_teacher_see_its_answers_to_their_own_batch_alone(tiny):
    """Models stacked in two programs are stepped by threads, and distilled from one teacher."""
    teacher = load_model(parse_ref(str(tiny("llama"))))
    loss = DistillationLoss(teacher)
    batches = [batch(rows=2, length=12, seed=seed) for seed in range(4)]

    def distances(ids, labels):
        states = loss.states(ids, labels)
        judge = loss.distance(states)
        targets = labels[:, 1:][labels[:, 1:] != IGNORED][None]
        logits = torch.zeros(*targets.shape, teacher.config.vocab_size)
        return judge(logits, targets, slice(0, targets.shape[1]))

    wanted = [distances(*each) for each in batches]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda i: distances(*batches[i % 4]), range(200)))
    finally:
        sys.setswitchinterval(interval)
    for i, each in enumerate(found):
        assert torch.equal(each, wanted[i % 4])
    assert "forward" not in vars(teacher)
