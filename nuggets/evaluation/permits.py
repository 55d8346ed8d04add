"""Where judges may be asked, and with which key: this machine's list, never a recipe's. Torch-free.

A recipe only names an address. What is sent there (questions, answers, a key) was allowed before by
the person at this machine, address by address; it is kept in `judges.json` in the home.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nuggets.disk.commit import atomic_write, make_folder
from nuggets.disk.home import nuggets_home
from nuggets.disk.untrusted import damaged, read_json
from nuggets.errors import BadInput
from nuggets.evaluation.judges import EndpointJudge, bare_url

_KEY_NAME = re.compile(r"([A-Z0-9]+_)*(KEY|TOKEN)")
_OTHERS = re.compile(
    r"(HF|HUGGING_?FACE\w*?|GH|GITHUB|GITLAB|BITBUCKET|AWS|AZURE(?!_OPENAI)|SSH|GPG|WANDB|KAGGLE|"
    r"COMET|NEPTUNE|NPM|PYPI|TWINE|CONDA|DOCKER|KUBE|VAULT|SLACK|STRIPE|SECRET|PRIVATE)_.*"
)
"""Names that belong to something else than a judge; what they hold is never sent to one."""


def allow(url: str, key_env: str | None = None) -> str:
    """Lets judges be asked at an address from now on, with a key or without.

    Args:
        url: the base address, exactly as recipes name it.
        key_env: the environment variable that holds the key; None sends no key.

    Returns:
        The address as it is kept.

    Raises:
        BadInput: if either cannot be used, such as a variable that holds another service's secret.
    """
    try:
        url = bare_url(url)
    except ValueError as problem:
        raise BadInput(f"Cannot allow {url[:200]!r}: {problem}.") from None
    if key_env is not None:
        _check_key_name(key_env)
    _write(allowed() | {url: key_env})
    return url


def forget(url: str) -> None:
    """Takes an address off the list.

    Raises:
        BadInput: if it is not there.
    """
    known = allowed()
    if (kept := url.rstrip("/")) not in known:
        raise BadInput(f"{url[:200]} is not allowed anyway. See `nuggets judge list`.")
    _write({each: key_env for each, key_env in known.items() if each != kept})


def allowed() -> dict[str, str | None]:
    """Every allowed address and the environment variable with its key.

    Raises:
        BadInput: if the file was edited into something else, or names another service's secret.
    """
    path = _file()
    if not path.exists():
        return {}
    known: dict[str, Any] = read_json(path)
    for key_env in known.values():
        if key_env is not None and not isinstance(key_env, str):
            raise damaged(path, "not a list of addresses and keys")
        if key_env is not None:
            _check_key_name(key_env)
    return known


def permit(judge: EndpointJudge) -> str:
    """The key to send to a judge, empty for none; asked again before every request.

    Raises:
        BadInput: if this machine does not allow its address, or the recipe wants another key.
    """
    known, host = allowed(), urlsplit(judge.url).netloc
    if judge.url not in known:
        raise BadInput(
            f"A benchmark sends questions and answers to {host}, which this machine does not "
            f"allow. If you trust it: nuggets judge allow {shlex.quote(judge.url)} (and --key-env "
            "NAME where it needs a key)."
        )
    key_env = known[judge.url]
    if judge.key_env and judge.key_env != key_env:
        raise BadInput(
            f"The recipe asks for {judge.key_env[:60]!r} as the key for {host}, and this machine "
            f"sends {key_env or 'no key'} there. Leave key_env out of the recipe: which key goes "
            "where is for `nuggets judge allow` alone."
        )
    key = os.environ.get(key_env, "").strip() if key_env else ""
    if key_env and not re.fullmatch(r"[!-~]+", key):
        raise BadInput(f"{key_env} holds no key for {host}; set it to the key, or forget it.")
    return key


def check_permits(benchmarks: Iterable[Any]) -> None:
    """Refuses benchmarks whose judges may not be asked, before anything is loaded or sent.

    Raises:
        BadInput: as `permit` does.
    """
    for judge in _endpoints(benchmarks):
        permit(judge)


def sent(benchmarks: Iterable[Any]) -> tuple[str, ...]:
    """What benchmarks send to whom, one sentence for each judge."""
    known = allowed()
    keys = {judge.url: known.get(judge.url) for judge in _endpoints(benchmarks)}
    return tuple(
        f"This run sends the benchmark's questions and all answers to {urlsplit(url).netloc} "
        f"({url}), {f'with the key in {key_env}' if key_env else 'without a key'}."
        for url, key_env in keys.items()
    )


def _endpoints(benchmarks: Iterable[Any]) -> Iterator[EndpointJudge]:
    for task in benchmarks:
        if isinstance(judge := task.judged_by, EndpointJudge):
            yield judge


def _check_key_name(name: str) -> None:
    if not _KEY_NAME.fullmatch(name) or _OTHERS.fullmatch(name):
        raise BadInput(
            f"{name[:60]!r} cannot be a judge's key: it is no name of an API key, or that of "
            "another service's secret. Put the judge's key into a variable such as JUDGE_API_KEY."
        )


def _file() -> Path:
    return nuggets_home() / "judges.json"


def _write(known: dict[str, str | None]) -> None:
    make_folder(nuggets_home())
    atomic_write(_file(), json.dumps(known, indent=1))
