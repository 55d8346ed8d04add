"""Looking into a model: the lens and the attribution agree with loops that know nothing of them."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from nuggets.errors import BadInput, NonFinite
from nuggets.lens.measure import MOST_TOKENS, attribution, logit_lens, look
from nuggets.lens.report import Lens
from nuggets.models.loading import load_model, load_tokenizer
from nuggets.models.pair import read_spec
from nuggets.models.references import parse_ref

ENCODED = ([3, 5, 7, 9, 11, 2], [-100, -100, -100, 9, 11, 2])
AT, TARGETS = [2, 3, 4], [9, 11, 2]
NUMBERS = Lens(
    tokens=("a", "b", "c"),
    rank=((1, 5, 9), (1, 1, 7), (2, 1, 7), (1, 1, 2)),
    probability=((0.5, 0.1, 0.0),) * 4,
    best=(("a", "x", "x"),) * 4,
    attribution=((1.0, 0.0, 3.0), (1.0, 0.0, 0.0), (2.0, 0.0, 1.0)),
)


@pytest.fixture
def loaded(tiny):
    ref = parse_ref(str(tiny("llama", num_hidden_layers=3)))
    return load_model(ref), read_spec(ref), load_tokenizer(ref)


def test_the_lens_is_what_a_plain_loop_with_hooks_reads_off(tiny):
    """By hand on the untouched model: hooks, final norm, head, softmax, sorting."""
    folder = tiny("llama", num_hidden_layers=3)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    states: list[torch.Tensor] = []
    for block in model.model.layers:
        block.register_forward_hook(lambda module, inputs, output: states.append(output))
    with torch.no_grad():
        entering = model.model.embed_tokens(torch.tensor([ENCODED[0]]))
        logits = model(torch.tensor([ENCODED[0]])).logits[0]
        rows = [model.lm_head(model.model.norm(state))[0, AT] for state in (entering, *states)]
    torch.testing.assert_close(rows[-1], logits[AT])
    ref = parse_ref(str(folder))
    ranks, probabilities, best = logit_lens(load_model(ref), read_spec(ref), ENCODED)
    assert ranks.shape == (4, 3)
    for place, row in enumerate(rows):
        for at, target in enumerate(TARGETS):
            order = row[at].argsort(descending=True).tolist()
            assert ranks[place, at] == 1 + order.index(target)
            assert best[place, at] == order[0]
            chance = float(row[at].softmax(0)[target])
            assert float(probabilities[place, at]) == pytest.approx(chance, rel=1e-5)


def test_the_attribution_is_what_plain_autograd_gives_token_by_token(tiny):
    """By hand: one loss, one call of autograd and one sum of |θ·g| for each token and layer."""
    folder = tiny("llama", num_hidden_layers=3)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    chances = model(torch.tensor([ENCODED[0]])).logits[0].double().log_softmax(-1)
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for token, (at, target) in enumerate(zip(AT, TARGETS, strict=True)):
        for layer, block in enumerate(model.model.layers):
            weights = list(block.parameters())
            grads = torch.autograd.grad(-chances[at, target], weights, retain_graph=True)
            sums = [(w * g).abs().double().sum() for w, g in zip(weights, grads, strict=True)]
            expected[layer, token] = sum(sums)
    ref = parse_ref(str(folder))
    found = attribution(load_model(ref), read_spec(ref), ENCODED)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=0)


def test_looking_leaves_the_model_as_it_was(loaded):
    model, spec, tokenizer = loaded
    model.train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    look(model, spec, tokenizer, "1 2", "3 4")
    assert model.training
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert not any("forward" in vars(module) for module in model.modules())


def test_an_answer_of_several_tokens_is_looked_at_up_to_its_end(loaded):
    found = look(*loaded, "1 2", "3 4")
    assert found.tokens == ("3", "4", "<eos>")
    assert len(found.places) == len(found.rank) == 4
    assert found.places == ("embedding", "L0", "L1", "L2")
    assert len(found.attribution) == 3
    assert all(len(row) == 3 for row in (*found.rank, *found.best, *found.attribution))


def test_equal_logits_are_ranked_by_their_id(loaded):
    model, spec, _ = loaded
    with torch.no_grad():
        model.lm_head.weight.zero_()
    ranks, probabilities, best = logit_lens(model, spec, ENCODED)
    assert ranks.tolist() == [[target + 1 for target in TARGETS]] * 4
    assert probabilities.tolist() == [[pytest.approx(1 / 40)] * 3] * 4
    assert best.tolist() == [[0] * 3] * 4


def test_a_token_is_known_from_where_it_stays_the_first_choice():
    assert NUMBERS.known_from == ("L2", "L0", None)
    said = "teacher knows 2 of 3 tokens of the answer, from L2 on; not 'c'."
    assert NUMBERS.sentence("teacher") == said
    known = NUMBERS.model_copy(update={"rank": ((1, 4, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1))})
    assert known.known_from == ("embedding", "L0", "embedding")
    assert known.sentence("it") == "it knows the whole answer from L0 on."
    never = NUMBERS.model_copy(update={"rank": ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))})
    assert never.sentence("it") == "it: no token of the answer is the first choice at the end."


def test_shares_are_of_each_tokens_own_sum():
    assert NUMBERS.shares == ((0.25, 0.0, 0.75), (0.25, 0.0, 0.0), (0.5, 0.0, 0.25))


def test_what_is_too_long_or_broken_is_refused_by_a_sentence(loaded):
    model, spec, tokenizer = loaded
    with pytest.raises(BadInput, match="66 tokens together, but the model accepts at most 64"):
        look(model, spec, tokenizer, "1 " * 60, "3 " * 3)
    model.config.max_position_embeddings = 1000
    with pytest.raises(BadInput, match=f"has 81 tokens; at most {MOST_TOKENS} are looked at"):
        look(model, spec, tokenizer, "1", "3 " * 80)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(torch.nan)
    with pytest.raises(NonFinite, match="the states after 2 of 3 layers is NaN"):
        logit_lens(model, spec, ENCODED)
