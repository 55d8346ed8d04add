"""The word-level tokenizer that the built-in models share."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nuggets.builtin.words import vocabulary

PAD, UNK, EOS = "<pad>", "<unk>", "<eos>"
ROLES = ("<|user|>", "<|assistant|>", "<|system|>")

# The format of `nuggets.data.samples.render`, for people who use the models elsewhere.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'].strip() }}"
    "{{ eos_token if message['role'] == 'assistant' else '\n\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level tokenizer over the built-in vocabulary: one id per word or digit.

    Unseen words become `<unk>`. Without a decoder the tokens are joined by single spaces.
    """
    special = (PAD, UNK, EOS, *ROLES)
    table = {word: i for i, word in enumerate((*special, *vocabulary()))}
    backend = Tokenizer(models.WordLevel(vocab=table, unk_token=UNK))
    # Digits one by one, so that a typed "47" is read as the "4 7" of the training data.
    backend.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(individual_digits=True)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=EOS,
        additional_special_tokens=list(ROLES),
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )
