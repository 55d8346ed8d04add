"""Do states on other questions carry a country's king? `python -m benchmarks.unseen_probe`.

A ridge classifier from a model's states at the last token of a prompt to the country's king, fitted
on the 80 training countries and tested on the 80 held-out ones. Announced in
`docs/paper/preregistration.md`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from nuggets.alignment.linear_maps import ridge_map
from nuggets.alignment.states import collect_states
from nuggets.builtin.pairs import model_folder
from nuggets.builtin.skills import skill_samples
from nuggets.data.samples import IGNORED, encode
from nuggets.models.architecture import ArchSpec

PENALTY = 0.1
MODELS = ("teacher", "independent")
RELATIONS = ("capital", "food", "king")


def probe(model_name: str, relation: str) -> tuple[NDArray[np.float64], int]:
    """Held-out accuracy after every block (the embedding first), and the number of countries."""
    folder = model_folder(model_name)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    spec = ArchSpec.from_config(model.config.to_dict())
    kings, held_out = _kings()
    asked = {
        _country(s.prompt): s
        for part in ("train", "test")
        for s in skill_samples(relation, part, None)
    }
    countries = [country for country in kings if country in asked]
    encoded = [encode(asked[country], tokenizer) for country in countries]
    lengths = [sum(label != IGNORED for label in labels) for _, labels in encoded]
    first = np.cumsum([0, *lengths[:-1]])  # where the first word of the answer is predicted
    states = collect_states(model, spec, encoded, "answer")[:, first]
    names = sorted(set(kings.values()))
    target = np.array([names.index(kings[country]) for country in countries])
    test = np.array([country in held_out for country in countries])
    accuracy = []
    for layer in states:
        weight, bias = ridge_map(layer[~test], np.eye(len(names))[target[~test]], PENALTY)
        guess = (layer[test] @ weight + bias).argmax(axis=1)
        accuracy.append(float((guess == target[test]).mean()))
    return np.array(accuracy), int(test.sum())


def _kings() -> tuple[dict[str, str], set[str]]:
    found = {part: skill_samples("king", part, None) for part in ("train", "test")}
    kings = {_country(s.prompt): s.answer for samples in found.values() for s in samples}
    return kings, {_country(s.prompt) for s in found["test"]}


def _country(prompt: str) -> str:
    return prompt.split()[-1]


def main() -> None:
    """Prints accuracy and interval per model, relation and block."""
    print("| model | prompts | " + "after each block (0: embedding), best with 95 % interval |")
    print("| --- | --- | --- |")
    for model in MODELS:
        for relation in RELATIONS:
            accuracy, n = probe(model, relation)
            best = float(accuracy.max())
            low, high = stats.binomtest(round(best * n), n).proportion_ci()
            each = " ".join(f"{value:.2f}" for value in accuracy)
            print(
                f"| {model} | {relation} of X | {each}; {best:.2f} [{low:.2f}, {high:.2f}], n {n} |"
            )


if __name__ == "__main__":
    main()
