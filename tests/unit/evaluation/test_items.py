"""Items of benchmarks: prompts written out by hand, targets, and what is refused."""

import json
from collections import Counter
from pathlib import Path

import pytest

from nuggets.data.jsonl import load_samples, read_rows
from nuggets.data.samples import Sample
from nuggets.errors import BadInput
from nuggets.evaluation import items
from nuggets.evaluation.benchmarks import Dialogue, Gsm8k, Mmlu, SkillTask, SuperNi

GSM = "Answer the following question.\n\nQuestion: "
MMLU = "The following are multiple choice questions (with answers) about "


def gsm(number, question, answer):
    return Sample.of(f"gsm_{number}", GSM + question, f"Answer: {answer}")


def mmlu(number, subject, question, letter):
    text = f"{MMLU}{subject}.\n\n{question}\nA. no\nB. yes\nAnswer:"
    return Sample.of(f"{subject}_{number}", text, letter)


@pytest.fixture
def lines(tmp_path):
    def write(samples, name="items.jsonl"):
        path = tmp_path / name
        rows = [{"id": s.id, "messages": [m.model_dump() for m in s.messages]} for s in samples]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def test_gsm8k_examples_stand_in_one_turn_below_one_instruction():
    asked = gsm(9, "Two and two?", "It is 4. So the answer is 4.")
    shown = [gsm(1, "One and one?", "So the answer is 2."), gsm(2, "A?", "So the answer is 3.")]
    item = items.gsm8k_item(asked, shown)
    assert item.sample.prompt == (
        "Answer the following question.\n\n"
        "Question: One and one?\nAnswer: So the answer is 2.\n\n"
        "Question: A?\nAnswer: So the answer is 3.\n\n"
        "Question: Two and two?"
    )
    assert item.target == "4"
    assert item.sample.answer == asked.answer


def test_mmlu_examples_show_the_letter_and_the_opening_goes_to_the_model():
    asked = mmlu(1, "law", "Is it?", "The answer is: B")
    item = items.mmlu_item(asked, [mmlu(2, "law", "Was it?", "The answer is: A")])
    assert item.sample.prompt == (
        f"{MMLU}law.\n\nWas it?\nA. no\nB. yes\nAnswer: A\n\nIs it?\nA. no\nB. yes\nAnswer:"
    )
    assert (item.opening, item.choices, item.right) == ("The answer is:", (" A", " B"), 1)
    plain = items.mmlu_item(mmlu(1, "law", "Is it?", "B"), [])
    assert (plain.opening, plain.choices, plain.target) == ("", ("A", "B"), "B")


def test_rows_of_the_hub_become_the_papers_format():
    row = {"question": "How many?", "answer": "There are 2*3=<<2*3=6>>6.\nSix.\n#### 6"}
    found = items.gsm8k_row(row)["messages"]
    assert found[0]["content"] == "Answer the following question.\n\nQuestion: How many?"
    assert found[1]["content"] == "Answer: There are 2*3=6. Six. So the answer is 6."
    row = {"question": "Which?", "subject": "world_religions", "choices": ["x", "y"], "answer": 1}
    (sample,) = read_rows("rows", [(1, row)], convert=items.mmlu_row)
    written = items.lettered(sample)
    assert written.prompt == f"{MMLU}world religions.\n\nWhich?\nA. x\nB. y\nAnswer:"
    assert written.answer == "B"
    assert items.mmlu_subject(sample) == "world religions"
    row = {"id": "t1", "definition": ["Say it."], "inputs": "hi", "targets": ["ho", "hey"]}
    found = items.super_ni_row(row)
    assert found["messages"][0]["content"] == "Say it.\n\nInput: hi\nOutput:"
    assert (found["id"], found["messages"][1]["content"]) == ("t1", "ho")


def test_questions_with_choices_are_lettered(tmp_path):
    path = tmp_path / "own.jsonl"
    row = {"question": "Sky?", "choices": ["green", "blue"], "answer": "blue"}
    path.write_text("".join(json.dumps(row | {"id": i}) + "\n" for i in range(7)))
    found = Mmlu(data=str(path)).items()
    assert len(found) == 2  # the first five lines are kept as examples
    assert found[0].sample.prompt.endswith("\n\nSky?\nA. green\nB. blue\nAnswer:")
    assert found[0].target == "B"


STATEMENTS = "Which are true?\nI. It rises.\nII. It falls."


def test_statements_of_a_question_are_no_options(tmp_path):
    """Given as choices, and as text whose options follow the statements."""
    path = tmp_path / "own.jsonl"
    row = {"question": STATEMENTS, "choices": ["I only", "II only", "Both", "A. or I."]}
    path.write_text("".join(json.dumps(row | {"answer": i % 4}) + "\n" for i in range(8)))
    given = Mmlu(data=str(path), shots=5).items()
    assert [(i.choices, i.target) for i in given] == [(tuple("ABCD"), t) for t in "BCD"]
    above = f"{STATEMENTS}\nA. a statement\nB. another"
    text = f"{MMLU}law.\n\n{above}\nA. I only\nB. II only\nI. Both\nC. none\nAnswer:"
    written = items.mmlu_item(Sample.of("m", text, "C"), [])
    assert (written.choices, written.target) == (tuple("ABC"), "C")


def test_repeated_options_are_asked_with_all_letters(tmp_path):
    path = tmp_path / "own.jsonl"
    row = {"question": "Effect?", "choices": ["up", "same", "down", "up"]}
    path.write_text("".join(json.dumps(row | {"answer": i % 4}) + "\n" for i in range(12)))
    found = Mmlu(data=str(path)).items()
    assert [item.target for item in found] == [*"BCDABCD"]
    assert {item.choices for item in found} == {tuple("ABCD")}
    first, last = load_samples(path)[0], load_samples(path)[3]
    assert (first.answer, first.place, last.place) == ("up", 0, 3)
    assert "right" not in load_samples(path)[1].model_dump()


def test_gsm8k_targets_are_what_the_answers_declare(lines):
    answers = ["2 #### 1,234", "So the answer is 5 km2.", "#### \u22123", "#### 1/2 of 4"]
    path = lines([gsm(i, f"{i}?", answers[i % 4]) for i in range(12)])
    assert [item.target for item in Gsm8k(data=path).items()] == ["1234", "5", "-3", "1/2"]


def test_zero_and_eight_shots_ask_the_same_items_of_one_file(lines):
    path = lines([gsm(i, f"{i}?", f"So the answer is {i}.") for i in range(12)])
    none, eight = Gsm8k(data=path, limit=3).items(), Gsm8k(data=path, limit=3, shots=8).items()
    assert (
        [i.sample.id for i in none] == [i.sample.id for i in eight] == ["gsm_8", "gsm_9", "gsm_10"]
    )
    assert eight[0].sample.prompt.count("Question:") == 9
    assert none[0].sample.prompt.count("Question:") == 1


@pytest.mark.parametrize("own", [True, False])
def test_a_limit_spreads_over_a_source_that_is_sorted_by_subject(lines, tmp_path, own):
    """As MMLU is: its first hundred questions are all of abstract algebra."""
    subjects = ("algebra", "art", "law", "virology")
    some = [mmlu(i, subject, f"{subject} {i}?", "A") for subject in subjects for i in range(25)]
    asked = lines(some)
    (tmp_path / "sorted").mkdir()
    (tmp_path / "sorted" / "test.jsonl").write_text(Path(asked).read_text())
    shots = lines([mmlu(i, "shots", f"shot {i}?", "A") for i in range(5)], "shots.jsonl")
    source = (
        {"data": asked} if own else {"data": f"{tmp_path / 'sorted'}:test", "shots_data": shots}
    )
    found = Mmlu(**source, limit=8).items()
    counted = Counter(item.sample.id.partition("_")[0] for item in found)
    assert counted == dict.fromkeys(subjects, 2)
    assert len(Mmlu(**source, limit=500).items()) == (95 if own else 100)


def test_mmlu_takes_examples_of_the_items_own_subject_first(lines):
    asked = lines([mmlu(i, "law", "Is it?", "A") for i in range(3)])
    other = [mmlu(i, "art", f"art {i}?", "A") for i in range(5)]
    own = [mmlu(i + 10, "law", f"law {i}?", "B") for i in range(2)]
    task = Mmlu(data=asked, shots_data=lines([*other, *own], "shots.jsonl"), shots=5)
    prompt = task.items()[0].sample.prompt
    order = [
        prompt.index(text) for text in ("law 0?", "law 1?", "art 0?", "art 1?", "art 2?", "Is it?")
    ]
    assert order == sorted(order)
    assert "art 3?" not in prompt


def test_an_example_that_is_also_asked_is_refused(lines):
    path = lines([gsm(i, f"{i}?", f"So the answer is {i}.") for i in range(9)])
    with pytest.raises(BadInput, match="9 of 9 test samples are also"):
        Gsm8k(data=path, shots_data=path, shots=8).items()


@pytest.mark.parametrize(
    ("task", "sample", "sentence"),
    [
        (Gsm8k, gsm(1, "How many?", "Nobody knows."), "contains no number"),
        (Mmlu, Sample.of("m", "Is it?", "A"), "needs options such as"),
        (Mmlu, mmlu(1, "law", "Is it?", "C"), "the answer is 'C'"),
    ],
)
def test_samples_that_are_not_of_the_benchmark_are_refused_by_name(task, sample, sentence, lines):
    good = [sample.model_copy(update={"id": f"{sample.id}{i}"}) for i in range(10)]
    with pytest.raises(BadInput, match=sentence):
        task(data=lines(good)).items()


def test_too_few_samples_are_refused_with_the_numbers(lines):
    path = lines([gsm(i, "a?", "So the answer is 1.") for i in range(9)])
    with pytest.raises(BadInput, match="has 9 samples; gsm8k-0shot needs at least 10"):
        Gsm8k(data=path).items()


@pytest.mark.parametrize("task", [SuperNi, Dialogue, SkillTask])
def test_benchmarks_without_a_few_shot_form_refuse_shots(task):
    own = {"skill": "sub"} if task is SkillTask else {}
    own |= (
        {"judge": {"kind": "teacher_likelihood", "teacher": "teacher"}} if task is Dialogue else {}
    )
    with pytest.raises(ValueError, match="no few-shot version"):
        task(shots=1, **own)


def test_names_say_shots_format_and_judge():
    judge = {"kind": "teacher_likelihood", "teacher": "teacher"}
    assert Gsm8k(shots=8).name == "gsm8k-8shot"
    assert Mmlu(format="chat").name == "mmlu-0shot-chat"
    assert Dialogue(judge=judge).name == "dialogue-teacher_likelihood"
    assert Dialogue(judge=judge).metric == "teacher_likelihood_win_rate"
    assert SkillTask(skill="sub").name == "skill-sub"
