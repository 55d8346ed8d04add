"""What the teacher of the real pair says to 1,000 general requests.

`python -m benchmarks.real_general --teacher MODEL` writes `real_general.jsonl` anew, every topic
with every request. It is kept here because sampled text differs between processors, and both
students are made from it. Takes half an hour of two cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

GENERAL = Path(__file__).parent / "real_general.jsonl"
BATCH, NEW_TOKENS = 25, 120
TOPICS = (
    "a market", "rain", "bread", "the moon", "bicycles", "a garden", "bridges", "school", "birds",
    "a long train journey", "friendship", "rivers", "music", "winter", "a library", "the heart",
    "coffee", "maps", "a small town", "glass", "horses", "elections", "sleep", "mountains", "salt",
    "a lost key", "paper", "bees", "the sea", "clocks", "football", "a hospital", "trees", "money",
    "painting", "cooking rice", "volcanoes", "the internet", "a new job", "honesty",
)  # fmt: skip
REQUESTS = (
    "Tell me something about {}.", "Write a short story about {}.", "Why do people care about {}?",
    "Explain {} to a child.", "Write a letter in which {} plays a part.", "List five facts on {}.",
    "Describe {} in detail.", "What is the history of {}?", "Write a dialogue about {}.",
    "What could go wrong with {}?", "Give advice on {}.", "Write a poem about {}.",
    "Compare {} with something else.", "What do scientists say about {}?", "Write news about {}.",
    "How would you draw {}?", "What is the use of {}?", "Write a diary entry that mentions {}.",
    "Ask three questions about {} and answer them.", "Summarise what one should know of {}.",
    "What has changed about {} in a century?", "Invent a proverb about {} and explain it.",
    "Which words go with {}, and why?", "Argue for and against {}.", "Plan a day around {}.",
)  # fmt: skip


def main() -> None:
    """Asks the teacher, and writes the file when all is said."""
    from nuggets.models.loading import load_model, load_tokenizer
    from nuggets.models.references import parse_ref

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", required=True)
    ref = parse_ref(parser.parse_args().teacher)
    model: Any = load_model(ref)
    tokenizer = load_tokenizer(ref)
    tokenizer.padding_side = "left"
    prompts = [request.format(topic) for topic, request in product(TOPICS, REQUESTS)]
    lines: list[str] = []
    for start in range(0, len(prompts), BATCH):
        lines += said(model, tokenizer, prompts[start : start + BATCH], seed=start)
        print(f"the teacher wrote {len(lines)} of {len(prompts)} samples", flush=True)
    write(GENERAL, lines)


def said(model: Any, tokenizer: Any, prompts: Sequence[str], seed: int) -> Iterator[str]:
    """Samples, as lines, with what the teacher says to some prompts."""
    import torch

    torch.manual_seed(seed)
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        for prompt in prompts
    ]
    asked = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    new = model.generate(
        **asked, max_new_tokens=NEW_TOKENS, do_sample=True, temperature=0.8, top_p=0.95
    )[:, asked["input_ids"].shape[1] :]
    answers = tokenizer.batch_decode(new, skip_special_tokens=True)
    rows = [{"prompt": p, "completion": a.strip()} for p, a in zip(prompts, answers, strict=True)]
    return (json.dumps(row) for row in rows if row["completion"])


def write(path: Path, lines: Iterable[str]) -> None:
    """All of a file, or nothing of it."""
    part = path.with_suffix(".part")
    part.write_text("".join(f"{line}\n" for line in lines))
    part.replace(path)


if __name__ == "__main__":
    main()
