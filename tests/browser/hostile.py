"""A home whose every free text tries to become markup, and what the browser made of it.

Each marker word of `TEXT` stands inside one piece of syntax. Where Markdown or HTML was read, the
word is still there and its syntax is gone: that is looked for in all text nodes of a page.
"""

from __future__ import annotations

import json
from typing import Any

from nuggets import api

MARKERS = {
    "bold7": "**bold7**",
    "link7": "[link7](javascript:pwned())",
    "red7": ":red[red7]",
    "math7": "$math7$",
    "code7": "`code7`",
    "tag7": "<b>tag7</b>",
}
SCRIPT = '<script>window.pwned=1</script><img src=x7 onerror="window.pwned=1">'
TEXT = " ".join([*MARKERS.values(), SCRIPT])
LABEL = "**bold7** :red[red7] $math7$ `code7`"
"""For an arm, whose name has at most 40 characters and names a folder."""

_MISREAD = """markers => {
  const found = [];
  if (window.pwned) found.push('a script ran');
  const walk = node => {
    if (node.nodeType === Node.TEXT_NODE)
      for (const [word, syntax] of Object.entries(markers))
        for (let at = node.data.indexOf(word); at >= 0; at = node.data.indexOf(word, at + 1)) {
          const before = syntax.slice(0, syntax.indexOf(word)).slice(-2);
          const own = node.data.slice(Math.max(0, at - before.length), at);
          if (own.endsWith('-') || node.data[at + word.length] === '-') continue;  // a run's id
          if (own.replace('꞉', ':') !== before) found.push(`${word}: ${node.data.slice(0, 200)}`);
        }
    if (node.nodeType === Node.ELEMENT_NODE) {
      if (node.matches('[data-testid=stCode]')) return;  // coloured as source, word by word
      if (node.matches('a[href^="javascript:"], img[src="x7"]')) found.push(node.outerHTML);
      if (node.shadowRoot) walk(node.shadowRoot);
    }
    for (const child of node.childNodes) walk(child);
  };
  walk(document.body);
  for (const code of document.querySelectorAll('[data-testid=stCode]'))
    if (code.querySelector('a, img, script, b')) found.push(code.outerHTML);
  return found;
}"""


def misread() -> tuple[str, dict[str, str]]:
    """What `page.evaluate` needs to list everything that was taken for markup."""
    return _MISREAD, MARKERS


def fill_with(text: str) -> api.Run:
    """Writes runs, notes, logs, errors, samples, maps and answers that hold the text.

    Returns:
        A finished transfer on the samples; there are also a failed and a damaged run.
    """
    from tests.app.measured import write_benchmark, write_map

    data = _samples(text)
    job = api.SensitivityJob(name=text, model="teacher", data=data, device="cpu")
    write_map(job, 0)
    write_map(api.SensitivityJob(model="teacher", data=api.DataConfig(task="add"), device="cpu"), 1)
    recipe = api.load_recipe("quick").model_copy(
        update={"name": text, "description": text, "data": data, "device": "cpu"}
    )
    labelled = [{"kind": "plain", "label": LABEL}, {"kind": "paper"}]
    run = write_benchmark(
        api.parse_job({**recipe.model_dump(), "arms": [{"kind": "vanilla"}, *labelled]}),
        [("vanilla", "reference", 0.1), (LABEL, "baseline", 0.5), ("paper", "treatment", 0.5)],
        question=text,
    )
    _annotate(run, text)
    _fail(api.create(job), text)
    damaged = api.create(job)
    damaged.record_path.write_text(json.dumps({"schema_version": text}))
    return run


def _samples(text: str) -> Any:
    """The user's own samples, called by the text."""
    lines = [{"prompt": f"{text} {n}", "completion": f"{n} {text}"} for n in range(20)]
    content = "\n".join(json.dumps(line) for line in lines)
    path = api.save_upload(content.encode())
    data = api.DataConfig(file=str(path))
    api.remember(data, text)
    return data


def _annotate(run: api.Run, text: str) -> None:
    run.set_notes(text)
    run.log_path.write_text(f"{text}\n")
    event = {"seq": 0, "time": "2026-01-01T00:00:00Z", "type": "log", "message": text}
    run.events_path.write_text(json.dumps(event) + "\n")


def _fail(run: api.Run, text: str) -> None:
    record = json.loads(run.record_path.read_text())
    error = {"type": "BadInput", "message": text, "exit_code": 2}
    stages = {"stage": text, "stages": [text], "status": "failed", "error": error}
    run.record_path.write_text(json.dumps(record | stages))
    _annotate(run, text)
