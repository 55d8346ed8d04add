"""The preset `paper` against the published procedure, written plainly, on small Llama models.

The prompt format and the label mask are written out here once more, as the authors' script has
them; sensitivities, layers, windows and factors come from `benchmarks.published`.
"""

import json
import random

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks import published

R = 8
MATRICES = {
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.o_proj": "o",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
}


def sizes(layers, heads, groups, ffn, head=8, **more):
    return {
        "num_hidden_layers": layers,
        "hidden_size": heads * head,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": head,
        "intermediate_size": ffn,
        **more,
    }


PAIRS = {
    "MHA": (sizes(4, 4, 4, 64), sizes(2, 2, 2, 24)),
    "GQA": (sizes(5, 4, 2, 72), sizes(3, 2, 1, 40)),
    "wide to narrow": (sizes(3, 6, 3, 96), sizes(2, 3, 3, 17)),
    "same width": (sizes(4, 4, 2, 64), sizes(2, 4, 2, 64)),
    "tied student": (sizes(3, 4, 4, 64), sizes(2, 2, 2, 32, tie_word_embeddings=True)),
}


@pytest.fixture(scope="module")
def seeds(tmp_path_factory, jsonl):
    draw = random.Random(0)

    def digits():
        return " ".join(draw.choices("0123456789abc", k=draw.randint(2, 5)))

    pairs = {f"  {digits()} + {digits()} = ? \n": f" {digits()}\n" for _ in range(6)}
    return jsonl(tmp_path_factory.mktemp("seeds") / "seeds.jsonl", pairs)


def with_bos(folder):
    """Puts a tokenizer into a model's folder that begins every text with <s>, as Llama's does."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    plain = json.loads((folder / "tokenizer.json").read_text())
    plain["model"]["vocab"]["<s>"] = 36
    backend = Tokenizer.from_str(json.dumps(plain))
    backend.add_special_tokens(["<s>"])
    backend.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 36)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
    ).save_pretrained(folder)


def encode(line, tokenizer):
    user, assistant = json.loads(line)["messages"]
    prompt = f"<|user|>\n{user['content'].strip()}\n\n<|assistant|>\n"
    whole = prompt + assistant["content"].strip() + tokenizer.eos_token
    ids = tokenizer(whole)["input_ids"]
    asked = len(tokenizer(prompt)["input_ids"])
    return ids, [-100] * asked + ids[asked:]


def publish(teacher, student, seeds):
    """Layers, and per student module the teacher's module, corner and B·A of the script."""
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    large = AutoModelForCausalLM.from_pretrained(teacher)
    config = json.loads((student / "config.json").read_text())
    small = AutoModelForCausalLM.from_config(type(large.config)(**config))
    encoded = [encode(line, tokenizer) for line in seeds.read_text().splitlines()]
    sums = published.sensitivity(large, encoded)
    layers = published.layers(sums, config["num_hidden_layers"])
    modules = {"model.embed_tokens": "model.embed_tokens", "lm_head": "lm_head"}
    modules |= {
        f"model.layers.{j}.{name}": f"model.layers.{i}.{name}"
        for j, i in enumerate(layers)
        for name in MATRICES
    }
    found = {}
    for ours, theirs in modules.items():
        height, width = small.get_submodule(ours).weight.shape
        row, col = published.window(sums[f"{theirs}.weight"], height, width)
        window = large.get_submodule(theirs).weight.detach()
        window = window[row : row + height, col : col + width]
        b, a = published.factors(window, R)
        found[ours] = (theirs, row, col, height, width, b @ a)
    return layers, found


def check(nuggets, teacher, student, seeds, out):
    words = (
        "--teacher",
        teacher,
        "--student",
        student,
        "--seed-samples",
        seeds,
        "--set",
        f"lora.r={R}",
    )
    ended = nuggets("extract", "paper", *words, "--device", "cpu", "--out", out, "--json")
    assert ended.code == 0, ended.err
    plan = json.loads((out / "plan.json").read_text())
    assert ended.json["plan"] == plan
    layers, expected = publish(teacher, student, seeds)
    assert plan["alignment"]["pairs"] == [[j, i] for j, i in enumerate(layers)]
    items = {item["student_module"]: item for item in plan["items"]}
    assert items.keys() == expected.keys()
    adapter = load_file(out / "adapter_model.safetensors")
    assert len(adapter) == 2 * len(items)
    for name, (theirs, row, col, height, width, product) in expected.items():
        item = items[name]
        assert item["teacher_module"] == theirs
        assert item["rows"] == list(range(row, row + height)), name
        assert item["cols"] == list(range(col, col + width)), name
        assert 0 < item["kept_mass"] <= 1 + 1e-12
        prefix = f"base_model.model.{name}."
        if name == "model.embed_tokens":
            a, b = adapter[f"{prefix}lora_embedding_A"], adapter[f"{prefix}lora_embedding_B"]
            assert (tuple(a.shape), tuple(b.shape)) == ((R, height), (width, R))
            ours = (b @ a).T
        else:
            a, b = adapter[f"{prefix}lora_A.weight"], adapter[f"{prefix}lora_B.weight"]
            assert (tuple(a.shape), tuple(b.shape)) == ((R, width), (height, R))
            ours = b @ a
        assert (ours - product).abs().max() < 1e-5, name
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"] == R
    assert config["target_modules"] == sorted(expected)
    return expected


@pytest.mark.parametrize("name", PAIRS)
def test_layers_windows_and_products_are_those_of_the_published_procedure(
    name, nuggets, tiny, seeds, tmp_path
):
    large, small = PAIRS[name]
    teacher, student = tiny("llama", seed=1, **large), tiny("llama", seed=2, **small)
    check(nuggets, teacher, student, seeds, tmp_path / "out")


def test_a_tokenizer_with_a_beginning_of_sequence_is_handled_as_published(
    nuggets, tiny_copy, seeds, tmp_path
):
    large, small = PAIRS["MHA"]
    teacher, student = tiny_copy(seed=1, **large), tiny_copy(seed=2, **small)
    for folder in (teacher, student):
        with_bos(folder)
    ids, labels = encode(seeds.read_text().splitlines()[0], AutoTokenizer.from_pretrained(teacher))
    assert ids[0] == 36
    assert ids.count(36) == 1
    assert labels[-1] == 2
    check(nuggets, teacher, student, seeds, tmp_path / "out")


def test_the_map_of_a_model_is_not_taken_for_that_of_the_same_weights_with_other_words(
    nuggets, tiny_copy, seeds, tmp_path
):
    large, small = PAIRS["MHA"]
    teacher, student = tiny_copy(seed=1, **large), tiny_copy(seed=2, **small)
    check(nuggets, teacher, student, seeds, tmp_path / "without")
    for folder in (teacher, student):
        with_bos(folder)
    check(nuggets, teacher, student, seeds, tmp_path / "with")


def test_the_factors_load_with_plain_peft_and_add_exactly_the_products(
    nuggets, tiny, seeds, tmp_path
):
    large, small = PAIRS["GQA"]
    teacher, student = tiny("llama", seed=1, **large), tiny("llama", seed=2, **small)
    expected = check(nuggets, teacher, student, seeds, tmp_path / "out")
    base = AutoModelForCausalLM.from_pretrained(student)
    before = {name: base.get_submodule(name).weight.detach().clone() for name in expected}
    merged = PeftModel.from_pretrained(base, str(tmp_path / "out")).merge_and_unload()
    for name, (*_, product) in expected.items():
        added = merged.get_submodule(name).weight.detach() - before[name]
        assert torch.allclose(added, product, atol=1e-5), name


def test_the_student_needs_neither_weights_nor_a_tokenizer(nuggets, tiny, seeds, tmp_path):
    large, small = PAIRS["MHA"]
    teacher, whole = tiny("llama", seed=1, **large), tiny("llama", seed=2, **small)
    student = tmp_path / "config only"
    student.mkdir()
    (student / "config.json").write_bytes((whole / "config.json").read_bytes())
    check(nuggets, teacher, student, seeds, tmp_path / "out")
