"""Where an answer begins, token by token, with tokenizers that make that hard to see."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nuggets.data.samples import IGNORED, Sample, encode, encode_all, texts, tokenize
from nuggets.errors import BadInput
from nuggets.evaluation.answers import greedy_answers
from nuggets.evaluation.outcomes import check_items, evaluate
from tests.unit.train.tiny_lab import letters, load

SAMPLE = Sample.of("blue", "the sea", "deep blue")
LETTERS = [*"abcdefghijklmnopqrstuvwxyz<|>", "\n", "_", ":"]


def tokenizer_of(merges=(), special="$A", clean=None):
    """Letter by letter, blanks as `_`; `merges` are pairs that become one token."""
    names = [*LETTERS, "<s>", "</s>", *("".join(pair) for pair in merges)]
    ids = {name: place for place, name in enumerate(names)}
    backend = Tokenizer(models.BPE(ids, [*merges]))
    backend.normalizer = normalizers.Sequence([normalizers.Replace(" ", "_"), *(clean or ())])
    backend.decoder = decoders.Replace("_", " ")
    backend.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    backend.add_special_tokens(["<s>", "</s>"])
    named = [(name, ids[name]) for name in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(single=special, special_tokens=named)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", bos_token="<s>")


def learned(tokenizer, **options):
    ids, labels = encode(SAMPLE, tokenizer, **options)
    kept = [i for i, label in zip(ids, labels, strict=True) if label != IGNORED]
    return ids, "|".join(tokenizer.convert_ids_to_tokens(kept))


@pytest.mark.parametrize("special", ["$A", "<s> $A", "$A </s>", "<s> $A </s>", "$A </s> </s>"])
def test_every_letter_of_the_answer_and_one_end_are_learned(special):
    tokenizer = tokenizer_of(special=special)
    ids, answer = learned(tokenizer)
    assert answer == "d|e|e|p|_|b|l|u|e|</s>"
    begins = special.startswith("<s>")
    assert (ids[0] == tokenizer.bos_token_id) is begins
    (prompt,) = tokenize(tokenizer, [texts(SAMPLE, tokenizer)[1]])
    assert tokenizer.convert_ids_to_tokens(prompt)[-1] == "\n"
    assert ids[: len(prompt)] == prompt


BLANK = (
    "{% for m in messages %}{{ 'a: ' if m.role == 'assistant' else 'u: ' }}{{ m.content }}"
    "{{ eos_token if m.role == 'assistant' else '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}a: {% endif %}"
)


def test_the_answers_first_letter_is_learned_although_it_merges_with_the_prompts_last_blank():
    tokenizer = tokenizer_of([("_", "d")])
    tokenizer.chat_template = BLANK
    whole, prompt = texts(SAMPLE, tokenizer, "chat")
    together = tokenizer.convert_ids_to_tokens(tokenizer(whole)["input_ids"])
    assert "_d" in together
    ids, answer = learned(tokenizer, format="chat")
    assert answer == "d|e|e|p|_|b|l|u|e|</s>"
    # What is learned from is what a model is asked with.
    (asked,) = tokenize(tokenizer, [prompt], "chat")
    assert ids[: len(asked)] == asked
    assert tokenizer.convert_ids_to_tokens(asked)[-1] == "_"


def test_where_it_cannot_be_seen_where_an_answer_begins_the_sample_is_refused_by_name():
    # A normaliser that drops the colon before an answer: the prompt alone keeps it.
    tokenizer = tokenizer_of(clean=[normalizers.Replace(":_d", "_d")])
    tokenizer.chat_template = BLANK
    with pytest.raises(BadInput, match="reads the prompt of sample 'blue' differently"):
        encode(SAMPLE, tokenizer, format="chat")


def test_a_cut_sample_is_learned_from_but_never_judged(tiny):
    loaded = load(tiny("llama"))
    items = letters(6)
    lengths = {s.id: len(encode(s, loaded.tokenizer)[0]) for s in items}
    longest = max(lengths.values())
    sizes = sorted(lengths.values())
    limit = sizes[-1] - 1
    n_cut = sum(size > limit for size in sizes)
    cut = encode_all(items, loaded.tokenizer, limit)
    assert max(len(ids) for ids, _ in cut) == limit
    sentence = (
        rf"{n_cut} of the items to be judged would be cut inside their answer after {limit} "
        rf"tokens; the longest, '0-\d', has {longest}"
    )
    with pytest.raises(BadInput, match=sentence):
        evaluate(loaded.model, loaded.tokenizer, items, max_length=limit)
    with pytest.raises(BadInput, match=sentence):
        check_items([s.model_copy(update={"choices": ()}) for s in items], loaded.tokenizer, limit)
    check_items(items, loaded.tokenizer, longest)


def test_a_choice_that_would_be_cut_is_refused_too(tiny):
    loaded = load(tiny("llama"))
    item = Sample.of("x", "a b", "b", ("b", "b c d e"))
    length = len(encode(item, loaded.tokenizer)[0])
    with pytest.raises(BadInput, match="1 of the items"):
        check_items([item], loaded.tokenizer, length)


def test_a_prompt_that_is_to_be_answered_is_not_ended(tiny):
    loaded = load(tiny("llama"))
    items = letters(3)
    plain = greedy_answers(loaded.model, loaded.tokenizer, items)
    end = loaded.tokenizer.eos_token
    named = [(end, loaded.tokenizer.eos_token_id)]
    loaded.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=named
    )
    with torch.no_grad():
        assert greedy_answers(loaded.model, loaded.tokenizer, items) == plain
