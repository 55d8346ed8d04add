"""The tokenizer's chat template: what is read, what enters the loss, what ends an answer."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nuggets.data.samples import IGNORED, Sample, answer_ends, encode, texts
from nuggets.errors import BadInput

WORDS = ["<unk>", "<eos>", "<s>", "[turn]", "[end]", "user", "model", "one", "two", "three"]
TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %} [turn] {{ 'model' if m.role == 'assistant' else m.role }} "
    "{{ m.content }} [end]\n{% endfor %}{% if add_generation_prompt %} [turn] model {% endif %}"
)
SAMPLE = Sample.of("x", " one two ", "three")


@pytest.fixture
def tokenizer():
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["<s>", "[end]"])
    # As Llama's: whoever asks for special tokens gets a beginning of the sequence.
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", WORDS.index("<s>"))]
    )
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>")
    made.chat_template = TEMPLATE
    return made


def test_the_template_writes_prompt_and_answer(tokenizer):
    whole, prompt = texts(SAMPLE, tokenizer, "chat")
    assert prompt == "<s> [turn] user one two [end]\n [turn] model "
    assert whole == "<s> [turn] user one two [end]\n [turn] model three [end]"


def test_only_the_answer_and_the_end_of_its_turn_enter_the_loss(tokenizer):
    ids, labels = encode(SAMPLE, tokenizer, format="chat")
    names = tokenizer.convert_ids_to_tokens(ids)
    assert " ".join(names) == "<s> [turn] user one two [end] [turn] model three [end]"
    assert labels == [IGNORED] * 8 + ids[8:]


def test_an_answer_ends_with_its_turn_or_with_the_sequence(tokenizer):
    assert answer_ends(tokenizer, "chat") == (1, WORDS.index("[end]"))
    assert answer_ends(tokenizer) == (1,)


def test_an_end_of_turn_before_the_end_of_sequence_ends_an_answer(tokenizer):
    """Phi 3 and 4: `answer<|end|>` and, where nothing is asked, `<|endoftext|>`."""
    ending = "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    tokenizer.chat_template = TEMPLATE + ending
    assert texts(SAMPLE, tokenizer, "chat")[0].endswith("three [end]\n<eos>")
    assert answer_ends(tokenizer, "chat") == (1, WORDS.index("[end]"))
    tokenizer.chat_template = TEMPLATE.replace("[end]", "two three") + ending
    assert answer_ends(tokenizer, "chat") == (1,)  # words may stand in an answer


def test_the_papers_format_stays_as_it_was(tokenizer):
    whole, prompt = texts(SAMPLE, tokenizer)
    assert prompt == "<|user|>\none two\n\n<|assistant|>\n"
    assert whole == prompt + "three<eos>"


def test_a_date_in_the_template_is_the_same_every_day(tokenizer):
    clock = '{% if strftime_now is defined %}{{ strftime_now( "%d %b \'%y") }}{% endif %} '
    tokenizer.chat_template = clock + TEMPLATE
    whole, prompt = texts(SAMPLE, tokenizer, "chat")
    assert prompt.startswith("26 Jul '24 <s> [turn] user")
    assert whole.startswith(prompt)


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (None, "has no chat template"),
        ("{% set f = '%Y' %}{{ strftime_now(f) }}" + TEMPLATE, "time of day in a way"),
        ("{{ raise_exception('no such role') }}", "refuses sample 'x': no such role"),
        (
            "{% if add_generation_prompt %}>{% else %}{{ messages }}{% endif %}",
            "cannot be separated",
        ),
    ],
)
def test_templates_that_cannot_serve_are_refused(tokenizer, template, sentence):
    tokenizer.chat_template = template
    with pytest.raises(BadInput, match=sentence):
        encode(SAMPLE, tokenizer, format="chat")
