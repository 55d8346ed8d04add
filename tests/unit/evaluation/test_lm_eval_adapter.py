"""lm-eval behind the adapter: against plain loops, lm-eval's own model, and hand-made answers."""

import json
import math

import pytest
import torch

from nuggets.builtin.pairs import MODELS
from nuggets.builtin.resolve import resolve
from nuggets.builtin.skills import skill_samples
from nuggets.errors import BadInput, Cancelled, NonFinite
from nuggets.evaluation.benchmarks import Dialogue, Gsm8k, Mmlu, SkillTask, SuperNi
from nuggets.evaluation.judges import TeacherJudge
from nuggets.evaluation.lm_eval_adapter import (
    Respondent,
    run_benchmark,
    source_config,
    task_config,
)
from nuggets.evaluation.outcomes import evaluate
from nuggets.models.loading import load_model, load_tokenizer
from nuggets.models.references import parse_ref
from nuggets.progress import InMemoryProgress

pytest.importorskip("lm_eval")


class Request:
    def __init__(self, *args):
        self.args = args


@pytest.fixture(scope="module")
def lm_of(tiny):
    from nuggets.evaluation.lm_eval_model import InMemoryLM

    ref = parse_ref(str(tiny("llama", max_position_embeddings=256)))
    model, tokenizer = load_model(ref), load_tokenizer(ref)

    def make(**settings):
        return InMemoryLM(model, tokenizer, **{"batch_size": 3, **settings})

    make.model, make.tokenizer = model, tokenizer
    return make


PAIRS = [
    ("1 2 3", " 4 5"),
    ("a b c d e f g", " h"),
    ("7", " 8 9 0 + ="),
    ("1 2 3", " 4"),
    ("q r s t = ?", " a b c"),
]


@torch.no_grad()
def plain_loglikelihood(model, tokenizer, context, answer):
    """One sequence at a time, in float64, token by token."""
    before, whole = (tokenizer(t)["input_ids"] for t in (context, context + answer))
    chances = model(input_ids=torch.tensor([whole])).logits[0].double().log_softmax(-1)
    steps = range(len(before), len(whole))
    total = math.fsum(float(chances[i - 1, whole[i]]) for i in steps)
    return total, all(int(chances[i - 1].argmax()) == whole[i] for i in steps)


def test_log_likelihoods_agree_with_a_plain_loop(lm_of):
    found = lm_of().loglikelihood([Request(*pair) for pair in PAIRS])
    for (value, greedy), pair in zip(found, PAIRS, strict=True):
        expected, first = plain_loglikelihood(lm_of.model, lm_of.tokenizer, *pair)
        assert value == pytest.approx(expected, abs=1e-4)
        assert greedy == first


def test_log_likelihoods_agree_with_lm_evals_own_model(lm_of):
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(pretrained=lm_of.model, tokenizer=lm_of.tokenizer, batch_size=2)
    requests = [Request(*pair) for pair in PAIRS]
    expected = theirs.loglikelihood(requests, disable_tqdm=True)
    found = lm_of().loglikelihood(requests)
    assert [value for value, _ in found] == pytest.approx([v for v, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


@torch.no_grad()
def plain_greedy(model, tokenizer, prompt, limit):
    ids = list(tokenizer(prompt)["input_ids"])
    start = len(ids)
    while len(ids) - start < limit and (len(ids) == start or ids[-1] != tokenizer.eos_token_id):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[start:]


def test_free_answers_agree_with_a_plain_loop_without_cache(lm_of):
    prompts = ["1 2 3", "a b c d e", "7", "9 9 9 9 9 9"]
    lm = lm_of(batch_size=2)
    settings = {"until": [], "max_gen_toks": 7}
    found = lm.generate_until([Request(prompt, settings) for prompt in prompts])
    rows = [plain_greedy(lm_of.model, lm_of.tokenizer, prompt, 7) for prompt in prompts]
    end = lm_of.tokenizer.eos_token_id
    expected = [lm_of.tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]
    assert found == expected
    assert lm.unfinished == sum(end not in row for row in rows)


def test_a_stop_text_ends_an_answer_before_it(lm_of):
    settings = {"until": [], "max_gen_toks": 6}
    [free] = lm_of().generate_until([Request("1 2 3", settings)])
    words = free.split()
    stop = words[3]
    [cut] = lm_of().generate_until([Request("1 2 3", settings | {"until": [stop]})])
    assert cut == " ".join(words[: words.index(stop)])


def test_prompts_that_are_too_long_lose_their_beginning_and_are_counted(lm_of):
    lm = lm_of(max_length=6)
    long = "1 2 3 4 5 6 7 8"
    [(value, _)] = lm.loglikelihood([Request(long, " 9")])
    expected, _ = plain_loglikelihood(lm_of.model, lm_of.tokenizer, "4 5 6 7 8", " 9")
    assert value == pytest.approx(expected, abs=1e-4)
    assert lm.truncated == 1
    with pytest.raises(BadInput, match="leave no room"):
        lm.generate_until([Request(long, {"until": [], "max_gen_toks": 6})])


def test_answers_that_were_kept_are_not_asked_again(lm_of, tmp_path):
    requests = [Request(*pair) for pair in PAIRS]
    first = lm_of(kept=tmp_path).loglikelihood(requests)
    again = lm_of(kept=tmp_path)
    again._score = None  # a call would fail
    assert again.loglikelihood(requests) == first


def test_a_cancel_is_heard_between_tokens(lm_of):
    progress = InMemoryProgress()
    progress.cancel()
    with pytest.raises(Cancelled):
        lm_of(progress=progress).generate_until([Request("1", {"max_gen_toks": 3})])


def test_nan_weights_are_refused_not_scored(tiny, counted):
    from nuggets.evaluation.lm_eval_model import InMemoryLM

    ref = parse_ref(str(tiny("llama")))
    model, tokenizer = load_model(ref), load_tokenizer(ref)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    lm = InMemoryLM(model, tokenizer)
    with pytest.raises(NonFinite, match="likelihood"):
        lm.loglikelihood([Request("1 2", " 3")])
    with pytest.raises(NonFinite, match="scores are NaN or infinite"):
        lm.generate_until([Request("1 2", {"max_gen_toks": 3})])
    counted("F9", "scores that are not finite", 2)


@pytest.mark.parametrize("skill", ["sub", "reverse"])
@pytest.mark.parametrize("name", ["teacher", "independent"])
def test_a_built_in_skill_agrees_item_by_item_with_the_evaluation_of_training(name, skill):
    assert name in MODELS
    model, tokenizer = load_model(resolve(name)), load_tokenizer(resolve(name))
    samples = skill_samples(skill, "test", 24)
    metrics = ["exact_match", "loss", *(["choice"] if samples[0].choices else [])]
    fast = evaluate(model, tokenizer, samples, metrics, batch_size=24)
    found = run_benchmark(SkillTask(skill=skill, limit=24), Respondent(name, model, tokenizer))
    assert found.outcome.items == fast.items
    assert found.outcome.outcomes["exact_match"] == fast.values["exact_match"]
    assert found.outcome.outcomes.get("choice") == fast.values.get("choice")
    assert found.outcome.outcomes["loss"] == pytest.approx(fast.values["loss"], abs=1e-4)


def lines(path, pairs):
    rows = (
        {
            "id": str(i),
            "messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}],
        }
        for i, (q, a) in enumerate(pairs)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def written(lm_of, monkeypatch):
    """Makes the model write given texts; everything else is real."""
    from nuggets.evaluation.lm_eval_model import InMemoryLM

    def run(task, texts, process=None):
        monkeypatch.setattr(InMemoryLM, "generate_until", lambda self, requests: list(texts))
        return run_benchmark(task, Respondent("m", lm_of.model, lm_of.tokenizer), process=process)

    return run


def test_gsm8k_counts_the_last_number_and_beside_it_the_stated_answer(tmp_path, written):
    pairs = [(f"Question: {i}?", f"Answer: So the answer is {i}.") for i in range(8)]
    answers = ["So the answer is 1,200.", "So the answer is 7.", "It is 3.", "The answer is 5."]
    pairs += [(f"Question: {i}?", answer) for i, answer in enumerate(answers, start=10)]
    texts = ["So the answer is $1200.", "The answer is 7. I had 2 left.", "it is 3", "no idea"]
    found = written(Gsm8k(data=lines(tmp_path / "g.jsonl", pairs)), texts)
    assert found.outcome.outcomes == {
        "exact_match,last-number": [1.0, 0.0, 1.0, 0.0],
        "exact_match,answer-is": [1.0, 1.0, 0.0, 0.0],
    }
    own = found.results["results"]["gsm8k-0shot"]
    assert own["exact_match,last-number"] == 0.5
    assert own["exact_match_stderr,last-number"] == pytest.approx(math.sqrt(0.25 / 3))


def test_super_ni_counts_exact_match_and_rouge_l(tmp_path, written):
    pairs = [("Say.", "the cat sat"), ("Say.", "Yes"), ("Say.", "one two")]
    found = written(
        SuperNi(data=lines(tmp_path / "s.jsonl", pairs)), ["the cat", " yes. ", "three"]
    )
    assert found.outcome.outcomes["exact_match"] == [0.0, 1.0, 0.0]
    assert found.outcome.outcomes["rougeL"] == pytest.approx([0.8, 1.0, 0.0])


def test_dialogue_is_scored_by_the_judge_that_is_handed_in(tmp_path, written):
    pairs = [("Hello?", "Hi there."), ("Why?", "So.")]
    task = Dialogue(data=lines(tmp_path / "d.jsonl", pairs), judge=TeacherJudge(teacher="teacher"))
    seen = []

    def process(doc, answers):
        seen.append((doc["question"], answers[0], doc["reference"]))
        return {"teacher_likelihood_win_rate": float(len(answers[0]) > 3)}

    found = written(task, ["Hey you", "No"], process)
    assert seen == [("Hello?", "Hey you", "Hi there."), ("Why?", "No", "So.")]
    assert found.outcome.outcomes == {"teacher_likelihood_win_rate": [1.0, 0.0]}


def test_a_judge_that_says_nan_stops_the_run(tmp_path, written, counted):
    task = Dialogue(
        data=lines(tmp_path / "d.jsonl", [("a", "b"), ("c", "d")]),
        judge=TeacherJudge(teacher="teacher"),
    )
    with pytest.raises(NonFinite, match="'0' in dialogue"):
        written(task, ["x", "y"], lambda doc, answers: {"teacher_likelihood_win_rate": math.nan})
    counted("F9", "scores that are not finite", 1)


@pytest.fixture(scope="module")
def mmlu(lm_of, tmp_path_factory):
    options = "\nA. 1\nB. 2\nAnswer:"
    pairs = [(f"{i} + 1 = ?{options}", "AB"[i % 2]) for i in range(9)]
    path = lines(tmp_path_factory.mktemp("mmlu") / "m.jsonl", pairs)
    return run_benchmark(
        Mmlu(data=path, shots=5, limit=4),
        Respondent("m", lm_of.model, lm_of.tokenizer, batch_size=2),
    )


def test_mmlu_picks_the_letter_of_largest_likelihood(mmlu, lm_of):
    for sample, right in zip(mmlu.samples, mmlu.outcome.outcomes["acc"], strict=True):
        values = [
            plain_loglikelihood(lm_of.model, lm_of.tokenizer, *pair)[0]
            for pair in sample["arguments"]
        ]
        assert [value for [(value, _)] in sample["resps"]] == pytest.approx(values, abs=1e-4)
        assert right == float(values.index(max(values)) == sample["doc"]["right"])


def test_results_have_lm_evals_shape_and_say_what_was_asked(mmlu):
    found = mmlu.results
    assert {"results", "configs", "versions", "n-shot", "higher_is_better", "n-samples",
            "config", "lm_eval_version"} <= set(found)  # fmt: skip
    assert found["n-shot"] == {"mmlu-5shot": 5}
    assert found["n-samples"]["mmlu-5shot"] == {"original": 4, "effective": 4}
    assert isinstance(found["results"]["mmlu-5shot"]["acc_stderr,none"], float)
    assert found["config"]["use_cache"] is None
    assert found["config"]["bootstrap_iters"] > 0
    json.dumps(found, allow_nan=False)
    assert mmlu.outcome.items == ["5", "6", "7", "8"]
    prompt = mmlu.samples[0]["doc"]["prompt"]
    assert prompt.startswith("<|user|>\n")
    assert prompt.count("Answer:") == 6
    assert prompt.endswith("<|assistant|>\n")


def test_without_a_file_the_configuration_names_the_data_set_on_the_hub():
    assert source_config(Gsm8k()) == {
        "dataset_path": "openai/gsm8k",
        "dataset_name": "main",
        "test_split": "test",
        "dataset_kwargs": {},
    }
    pinned = source_config(Mmlu(data="cais/mmlu@c30699e:all/validation"))
    assert (pinned["dataset_path"], pinned["dataset_name"], pinned["test_split"]) == (
        "cais/mmlu", "all", "validation",
    )  # fmt: skip
    assert pinned["dataset_kwargs"] == {"revision": "c30699e"}
    assert source_config(SuperNi())["dataset_path"] == "Muennighoff/natural-instructions"
    assert source_config(SkillTask(skill="sub"))["dataset_path"] == "nuggets"


def test_global_random_generators_are_left_alone(lm_of, tmp_path):
    import random

    import numpy as np

    pairs = [(f"{i}?\nA. 1\nB. 2\nAnswer:", "A") for i in range(7)]
    task = Mmlu(data=lines(tmp_path / "m.jsonl", pairs))
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    run_benchmark(task, Respondent("m", lm_of.model, lm_of.tokenizer))
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after


def test_lm_evals_own_machinery_accepts_the_configuration(lm_of):
    from lm_eval.api.task import ConfigurableTask

    docs = [{"id": "1", "prompt": "1 2", "target": "3"}, {"id": "2", "prompt": "4", "target": "5"}]
    task = ConfigurableTask(config=task_config(Gsm8k(), docs))
    assert [task.doc_to_text(doc) for doc in task.test_docs()] == ["1 2", "4"]
    assert [task.doc_to_target(doc) for doc in task.test_docs()] == ["3", "5"]
