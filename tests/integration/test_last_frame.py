"""What nobody foresaw is one sentence with a log's reference, whichever entry it came through."""

from __future__ import annotations

import errno
import json
import os
import re
import struct
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nuggets import api
from nuggets.cli.main import _COMMANDS
from nuggets.disk import last_frame
from nuggets.disk.home import nuggets_home
from nuggets.errors import BadInput
from nuggets.evaluation.benchmarks import Benchmark
from nuggets.models.gguf.headers import read_gguf
from nuggets.models.pair import Model
from nuggets.models.references import parse_ref
from nuggets.models.safetensors_headers import read_header
from nuggets.recipe import dump_job, load_job
from nuggets.sweeps.recipe import dump_sweep, parse_sweep_text
from nuggets.train.arms.family import Arm
from nuggets.worker import run_in_foreground

quiet = settings(max_examples=60, suppress_health_check=list(HealthCheck))


class PanicException(BaseException):
    """As libraries written in Rust raise it."""


UNFORESEEN = [
    TypeError("unhashable type: 'list'"),
    MemoryError(),
    OSError(errno.EMFILE, "Too many open files"),
    RecursionError("maximum recursion depth exceeded"),
    PanicException("index out of\nbounds"),
    KeyError("x"),
]


def names(errors):
    return [type(error).__name__ for error in errors]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))


def traced(text: str, kind: str) -> None:
    """The sentence stands on one line, and names a log in which the trace is."""
    assert "\n" not in text.strip()
    assert kind in text
    found = re.search(r"Details are in (\S+?)(?: under (\w+))?\.$", text.strip())
    assert found, text
    log = Path(found[1]).read_text()
    assert kind in log
    assert found[2] is None or f"[{found[2]}]" in log


@pytest.mark.parametrize("error", UNFORESEEN, ids=names(UNFORESEEN))
@pytest.mark.parametrize("as_json", [False, True])
def test_a_command_ends_with_a_sentence_and_code_1(nuggets, monkeypatch, error, as_json):
    def fail():
        raise error

    monkeypatch.setattr(api, "runs", fail)
    ended = nuggets("list", *["--json"] * as_json)
    assert ended.code == 1
    traced(ended.err, type(error).__name__)
    if as_json:
        assert ended.json["error"]["type"] == type(error).__name__


@pytest.mark.parametrize("error", UNFORESEEN, ids=names(UNFORESEEN))
def test_a_run_keeps_the_sentence_and_its_log_the_trace(error, monkeypatch):
    def fail(run, ctx):
        raise error

    monkeypatch.setattr("nuggets.worker._pipeline", lambda run: fail)
    run = api.create(api.load_recipe("quick", ["device=cpu"]))
    with pytest.raises(BaseException):  # noqa: B017, PT011 - whichever
        run_in_foreground(run, lambda event: None)
    found = run.record().error
    assert found is not None
    if not isinstance(error, MemoryError):  # that one has a sentence of its own
        traced(found.message, type(error).__name__)


def test_a_reader_that_has_enough_is_no_fault(tmp_path):
    words = f"{sys.executable} -m nuggets recipes --schema | head -c 10"
    ended = subprocess.run(["bash", "-o", "pipefail", "-c", words], capture_output=True, text=True)
    assert ended.stderr == ""


def test_the_log_of_the_last_frame_stays_small(monkeypatch):
    monkeypatch.setattr(last_frame, "MAX_LOG_BYTES", 2000)
    for number in range(50):
        last_frame.sentence(TypeError(f"{number} hf_{'a' * 20}"))
    folder = nuggets_home() / "logs"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6000
    assert "aaaa" not in (folder / "unforeseen.log").read_text()


def test_a_home_that_cannot_be_written_still_gives_the_sentence(monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", "/proc/none")
    assert "could not be written" in last_frame.sentence(TypeError("x"))


# Fuzzing: whatever is written, only refusals come back


def one_line(refused: BadInput) -> None:
    assert "\n" not in str(refused)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["../../x", "/dev/zero", "org/name", "x" * 300, "run:x", "\u202e", "nan"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner,
                                                                max_size=3),
    max_leaves=6,
)  # fmt: skip


def kinds(family):
    """Every member of a family, by its name in recipes."""
    return [get_args(one.model_fields["kind"].annotation)[0] for one in get_args(family)]


SAMPLES = {"data": "/x.jsonl"}
JUDGE = {"judge": {"kind": "endpoint", "url": "http://127.0.0.1:1/v1", "model": "m"}}
OWN: dict[str, Any] = {"skill": {"skill": "add"}, "dialogue": {**SAMPLES, **JUDGE}}
BENCHMARKS = [{"kind": kind, **OWN.get(kind, SAMPLES)} for kind in kinds(get_args(Benchmark)[0])]
PAIR = {"teacher": "teacher", "student": "independent"}
ARMS = [{"kind": kind} for kind in kinds(get_args(Arm)[0])]
JOBS: dict[str, dict[str, Any]] = {
    "transfer": PAIR | {"data": {"task": "add"}, "arms": ARMS, "benchmarks": BENCHMARKS},
    "sensitivity": {"model": "teacher", "data": {"task": "add"}},
    "align": PAIR,
    "erase": {"model": "teacher", "data": {"task": "add"}},
    "evaluate": {"models": ["teacher"], "benchmarks": BENCHMARKS},
}
TREES = {
    name: yaml.safe_load(dump_job(api.parse_job({"job": name} | job))) for name, job in JOBS.items()
}
"""A recipe of every kind, with all arms and benchmarks."""
SWEEP = yaml.safe_load(dump_sweep(api.load_sweep("quick", ["lora.r=2..8"])))
QUICK = yaml.safe_load(dump_job(api.load_recipe("quick")))


def places(tree, path=()):
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items if isinstance(tree, dict | list) else ():
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))
        else:
            yield (*path, key)


def changed(tree, data):
    """The tree with any value in one of its places."""
    place, tree = data.draw(st.sampled_from([p for p in places(tree) if p])), deepcopy(tree)
    node = tree
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = data.draw(VALUES)
    return tree


@quiet
@given(data=st.data())
@pytest.mark.parametrize("name", TREES)
def test_any_value_in_any_field_of_a_recipe_is_taken_or_refused(name, data):
    tree = changed(TREES[name], data)
    try:
        job = load_job(yaml.safe_dump(tree))
    except BadInput as refused:
        one_line(refused)
    else:
        assert load_job(dump_job(job)) == job  # what is taken is kept as it was taken


@quiet
@given(st.sampled_from([".".join(map(str, p)) for p in places(QUICK) if p]), st.text(max_size=40))
def test_any_override_is_taken_or_refused(path, text):
    try:
        api.load_recipe("quick", [f"{path}={text}"])
    except BadInput as refused:
        one_line(refused)


@quiet
@given(st.binary(max_size=200), st.integers(0, 400))
def test_any_bytes_in_a_header_are_taken_or_refused(tmp_path_factory, data, place):
    folder = tmp_path_factory.mktemp("h")
    good = json.dumps({"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    whole = struct.pack("<Q", len(good)) + good + b"\0" * 8
    packed = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + data
    for name, content, read in (
        ("m.safetensors", whole[:place] + data + whole[place + len(data) :], read_header),
        ("m.gguf", packed, read_gguf),
    ):
        file = folder / name
        file.write_bytes(content)
        try:
            read(file)
        except BadInput as refused:
            one_line(refused)


@quiet
@given(
    st.sampled_from(["hidden_size", "model_type", "num_attention_heads", "quantization_config",
                     "rope_parameters", "max_position_embeddings", "vocab_size", "auto_map"]),
    VALUES,
)  # fmt: skip
def test_any_value_in_a_config_is_taken_or_refused(tiny, tmp_path_factory, key, value):
    folder = tmp_path_factory.mktemp("c")
    for file in tiny().iterdir():
        os.link(file, folder / file.name)
    held = json.loads((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(held | {key: value}))
    try:
        model = Model(parse_ref(str(folder)))
        _ = model.headers, model.vocabulary
    except BadInput as refused:
        one_line(refused)


def test_a_device_on_two_lines_is_refused_on_one():
    with pytest.raises(BadInput, match="device") as refused:
        load_job(yaml.safe_dump(QUICK | {"device": "cuda:\n1"}))
    one_line(refused.value)


@pytest.mark.parametrize("value", [None, 1e16])
def test_a_key_on_two_lines_of_a_sweep_is_refused_on_one(value):
    with pytest.raises(BadInput, match="The sweep is not valid") as refused:
        parse_sweep_text(yaml.safe_dump(SWEEP | {"job": {"\n": value}}))
    one_line(refused.value)


@quiet
@given(data=st.data())
def test_any_value_in_any_field_of_a_sweep_is_taken_or_refused(data):
    try:
        sweep = parse_sweep_text(yaml.safe_dump(changed(SWEEP, data)))
    except BadInput as refused:
        one_line(refused)
    else:
        assert parse_sweep_text(dump_sweep(sweep)) == sweep


COMPUTING = ("doctor", "measure_builtin", "calibration_runs")
"""What commands do for minutes without being asked for more."""
WORDS = st.sampled_from(
    ["--json", "--out", "--set", "--arm", "--seed", "--task", "--data", "--teacher", "--device",
     "--limit", "--benchmark", "--roles", "--layers", "--names", "", "-", "--", "x", "/dev/zero",
     "/nowhere", "run:x", "run:x/y", "org/name", "\u202e", "a=b", "lora.r=nan", "=", "-1", "1e999",
     "99999999999999999999", "../../..", "~nobody/x", "x" * 300, "{}", "[", "'", "--seeds"]
) | st.text(alphabet=st.characters(blacklist_characters="\0"), max_size=12)  # fmt: skip


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.parametrize("command", _COMMANDS)
def test_any_words_after_a_command_are_taken_or_refused(nuggets, monkeypatch, command, data):
    def stop(*_given, **_named):
        raise BadInput("It would begin now.")

    for name in COMPUTING:
        monkeypatch.setattr(api, name, stop)
    monkeypatch.setattr(api.playground, "ask", stop)
    monkeypatch.setattr(os, "execv", stop)  # the app takes this process's place
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    words = data.draw(st.lists(WORDS, max_size=5))
    ended = nuggets(command, *words)
    assert ended.code in (0, 1, 2), ended
    assert "unforeseen" not in ended.err, ended.err
    assert "Traceback" not in ended.err
