"""Publishing a trained arm on the Hugging Face Hub: what would be sent, and sending exactly that.

No path of this machine is sent. The access token is the one that huggingface_hub finds (HF_TOKEN or
`hf auth login`); it is neither asked for nor written here.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import yaml

from nuggets import __version__, demo
from nuggets.builtin.resolve import model_named
from nuggets.disk.commit import make_folder
from nuggets.disk.home import nuggets_home
from nuggets.disk.manifest import MANIFEST
from nuggets.errors import BadInput, hide_tokens
from nuggets.frozen import Frozen
from nuggets.models.hub import hub_licence, send_model
from nuggets.models.references import short_name
from nuggets.recipe import TransferRecipe
from nuggets.runs.results import report
from nuggets.runs.store import Run
from nuggets.stages.exporting import export_arm
from nuggets.workspace import strangers
from nuggets.workspace.names import about

CARD = "README.md"
_REPO = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


class Publication(Frozen):
    """What is sent to the hub.

    Attributes:
        repo: `org/name`.
        private: whether only its owners see it.
        files: name → bytes, of all that is sent, the card among them.
        card: the text of README.md.
        url: where it is; empty while nothing was sent.
    """

    repo: str
    private: bool
    files: dict[str, int]
    card: str
    url: str = ""


@demo.refuses("nothing is published")
def publish(
    run: Run,
    repo: str,
    arm: str,
    seed: int | None = None,
    merged: bool = False,
    *,
    private: bool = True,
    dry_run: bool = False,
) -> Publication:
    """Sends an arm's adapter, or its whole model (imports torch), with a card to the hub.

    Args:
        run: a transfer with that arm finished.
        repo: `org/name`, which must not hold files yet.
        arm: the arm's name.
        seed: which seed; the first that is finished when not given.
        merged: send the whole model instead of an adapter.
        private: whether only its owners see it.
        dry_run: send nothing; what is returned is what would be sent.

    Raises:
        BadInput: if the run has no such arm, or the hub takes nothing of that name from here.
    """
    if _REPO.fullmatch(repo) is None:
        raise BadInput(f"{repo[:200]!r} is no name on the Hub; it has the form org/name.")
    make_folder(nuggets_home())
    with tempfile.TemporaryDirectory(dir=nuggets_home(), prefix="publish-") as place:
        folder = Path(place) / "model"
        made = export_arm(run, folder, arm, seed, merged)
        recipe = strangers.job_of(run)
        (folder / MANIFEST).unlink(missing_ok=True)  # of the files as they are here
        _hide_places(folder, recipe)
        card = hide_tokens(_card(run, recipe, repo, made))
        (folder / CARD).write_text(card, encoding="utf-8")
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        found = Publication(repo=repo, private=private, files=files, card=card)
        if dry_run:
            return found
        return found.model_copy(update={"url": send_model(repo, folder, private)})


def _hide_places(folder: Path, recipe: TransferRecipe) -> None:
    """Calls models that are folders here by their names alone, wherever a file names them."""
    for path in folder.glob("*.json"):
        text = whole = path.read_text(encoding="utf-8")
        for model in filter(os.path.isabs, (recipe.teacher, recipe.student)):
            for written in (model, json.dumps(model)[1:-1]):  # é may stand there as \\u00e9
                text = text.replace(written, short_name(model))
        if text != whole:
            path.write_text(text, encoding="utf-8")


def _card(run: Run, recipe: TransferRecipe, repo: str, made: dict[str, Any]) -> str:
    student, teacher = short_name(recipe.student), short_name(recipe.teacher)
    kind = "a whole model" if made["merged"] else "a PEFT adapter for the untouched student"
    paragraphs = (
        _front(recipe, made["merged"]),
        f"# {repo.partition('/')[2]}",
        f"{student}, trained on {about(run).data or 'own samples'} with the arm `{made['arm']}` "
        f"(seed {made['seed']}) of a transfer from {teacher}; {kind}. Made by Nuggets "
        f"{__version__}, which implements arXiv 2310.11451.",
        "## Did the transfer help?",
        _results(run),
        "## Use",
        _use(repo, recipe.student, made["merged"]),
        "## Licences",
        _licences(recipe),
        "## Recipe",
        f"Save it as recipe.yaml; `nuggets run recipe.yaml` trains all arms again (run {run.id}).",
        f"```yaml\n{yaml.safe_dump(_plain(recipe), sort_keys=False, allow_unicode=True)}```",
    )
    return "\n\n".join(paragraphs) + "\n"


def _front(recipe: TransferRecipe, merged: bool) -> str:
    """The head that the hub reads; what is not known is left out."""
    ref = model_named(recipe.student).ref
    licences = {_licence(name) for name in (recipe.student, recipe.teacher)}
    head: dict[str, Any] = {
        "library_name": "transformers" if merged else "peft",
        "tags": ["nuggets", "knowledge-transfer", *([] if merged else ["lora"])],
    }
    if ref.hub_id is not None:
        relation = "finetune" if merged else "adapter"
        head |= {"base_model": ref.hub_id, "base_model_relation": relation}
    if len(licences) == 1 and (licence := licences.pop()):
        head["license"] = licence
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---"


def _results(run: Run) -> str:
    found = report(run)
    if found is None:
        return "The run has no report: its arms were not all trained."
    rows = [
        f"| {arm.name} | {arm.value:.3f} | [{arm.interval[0]:.3f}, {arm.interval[1]:.3f}] |"
        for arm in found.arms.values()
    ]
    head = f"| arm | {found.metric.replace('_', ' ')}, {found.n_items} items | 95 % |"
    return "\n".join([f"**{found.verdict.sentence}**", "", head, "|---|---|---|", *rows])


def _use(repo: str, student: str, merged: bool) -> str:
    if merged:
        return (
            "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'model = AutoModelForCausalLM.from_pretrained("{repo}")\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{repo}")\n```\n\n'
            "The folder holds all that llama.cpp's `convert_hf_to_gguf.py` reads."
        )
    ref, brought = model_named(student).ref, ""
    where = f'"{ref.hub_id or short_name(student)}"'
    if ref.revision is not None:
        where += f', revision="{ref.revision}"'
    if ref.shipped:
        brought = "from nuggets.builtin.pairs import model_folder\n"
        where = f'model_folder("{student}")'
    return (
        f"```python\n{brought}from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM\n\n"
        f"student = AutoModelForCausalLM.from_pretrained({where})\n"
        f'model = PeftModel.from_pretrained(student, "{repo}")\n```'
    )


def _licence(name: str) -> str:
    ref = model_named(name).ref
    if ref.shipped:
        return "apache-2.0"
    return hub_licence(ref.hub_id, ref.revision) if ref.hub_id is not None else ""


def _licences(recipe: TransferRecipe) -> str:
    """What is known of both models' licences, and what that means for who publishes."""
    lines = [
        f"- {who} {short_name(name)}: {_licence(name) or 'not known here'}"
        for who, name in (("student", recipe.student), ("teacher", recipe.teacher))
    ]
    return "\n".join(
        [
            "The trained parameters derive from the student and, where an arm starts from "
            "extracted parameters, from the teacher. Both licences apply, and that of the samples.",
            "",
            *lines,
        ]
    )


def _plain(recipe: TransferRecipe) -> Any:
    """The recipe's fields, paths of this machine shortened to names."""

    def shown(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shown(each) for key, each in value.items()}
        if isinstance(value, list):
            return [shown(each) for each in value]
        return short_name(value) if isinstance(value, str) else value

    return shown(recipe.model_dump(mode="json"))
