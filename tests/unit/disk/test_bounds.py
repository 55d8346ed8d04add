"""No file of a stranger's makes a reader wait, spin or fill the memory."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from nuggets import api
from nuggets.bundles import bundle as bundles
from nuggets.data.jsonl import load_samples
from nuggets.disk import untrusted
from nuggets.disk.limited import limited
from nuggets.disk.untrusted import open_file, read_json, sha256_file
from nuggets.errors import BadInput, Damaged, Unsupported
from nuggets.extraction.adapter import load_adapter
from nuggets.models.gguf.headers import read_gguf
from nuggets.models.pair import Model
from nuggets.models.references import model_files, parse_ref
from nuggets.models.safetensors_headers import read_header
from nuggets.models.tried import try_tokenizer
from nuggets.recipe_tree import parse_yaml


@pytest.fixture(autouse=True)
def patience(tmp_path, monkeypatch):
    """Whoever waits for a file is interrupted after minutes, and fails."""
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits for a file"))
    signal.alarm(300)
    yield
    signal.alarm(0)


def look(folder: Path) -> None:
    model = Model(parse_ref(str(folder)))
    _ = model.headers, model.vocabulary, model_files(model.ref)
    try_tokenizer(model.ref)


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
     "generation_config.json", "chat_template.jinja", "merges.txt", "adapter_config.json"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_refused_in_a_model(name, kind, tiny_copy):
    folder = tiny_copy()
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(BadInput, match=r"is not a file but a|is a link to /dev/zero|no model"):
        look(folder)


READERS = {
    "config": read_json,
    "weights": read_header,
    "gguf": read_gguf,
    "samples": load_samples,
    "bundle": bundles.read_bundle,
    "digest": sha256_file,
    "recipe": api.show_recipe,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "nothing", "long name", "socket"])
def test_no_reader_waits_for_what_is_no_file(reader, kind, tmp_path):
    path = tmp_path / "given"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "long name":
        path = tmp_path / ("x" * 300)
    elif kind == "socket":
        path.symlink_to("/dev/tty")
    with pytest.raises(BadInput) as refused:
        READERS[reader](path)
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith(".")


def test_an_opened_file_is_the_one_that_was_looked_at(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    with open_file(path, 5) as file:
        assert file.read() == b"12345"
    with pytest.raises(BadInput, match="has 5 bytes; at most 4"), open_file(path, 4):
        pass


def sparse(path: Path, head: bytes, size: int) -> Path:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
    return path


def gguf(kind: int, count: int) -> bytes:
    field = struct.pack("<Q", 1) + b"x" + struct.pack("<IIQ", 9, kind, count)
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + field


@pytest.mark.parametrize(
    "head",
    [gguf(0, 90_000_000), gguf(12, 7_000_000), gguf(8, 10**8),
     b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**32)],
)  # fmt: skip
def test_a_small_gguf_cannot_claim_gigabytes(head, tmp_path):
    file = sparse(tmp_path / "m.gguf", head, 5 * 2**30)
    tracemalloc.start()
    with pytest.raises(Damaged, match=r"claims|absurd|cut short"):
        read_gguf(file)
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n"
            for i in range(9)), "aliases counted as often as used"),
        ("a: &a [*a]", "aliases counted"),
        ("a: &a {b: *a}", "aliases counted"),
        ("[" * 50_000, "nested too deeply"),
        ("- " * 50_000, "nested too deeply"),
        ("? " * 50_000, "nested too deeply"),
        ("a: [" + "1," * 30_000 + "1]", "more than 20,000 values"),
        ("a: b\n" * 50_000, "at most 200,000"),
    ],
    ids=["bomb", "itself", "itself in a mapping", "deep", "deep list", "deep keys", "many", "long"],
)  # fmt: skip
def test_yaml_is_bounded_before_it_is_built(text, reason):
    with pytest.raises(BadInput, match=reason):
        parse_yaml(text, "r.yaml")


def test_a_recipe_that_nuggets_wrote_may_repeat_itself():
    assert parse_yaml("a: &x [1, 2]\nb: *x", "r.yaml") == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("lora.r", 10**30, "not finite, or too large"),
        ("train.lr", ".inf", "not finite, or too large"),
        ("train.lr", ".nan", "not finite, or too large"),
        ("teacher", '"a\\u202eb"', "cannot be printed"),
        ("name", '"a\\nb"', "cannot be printed"),
        ("name", "x" * 5000, "too long"),
        ("device", '"../../x"', "device"),
        ("arms", "[{kind: plain, label: ../../x}]", "not a name"),
        ("arms", "[{kind: plain, label: .hidden}]", "not a name"),
        ("arms", "[{kind: plain, label: 'a\\b'}]", "not a name"),
    ],
)
def test_values_that_no_recipe_holds_are_refused_when_it_is_read(field, value, reason):
    with pytest.raises(BadInput, match=reason):
        api.load_recipe("quick", [f"{field}={value}"])


def test_a_zip_with_a_huge_list_of_files_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "b.zip"
    with zipfile.ZipFile(path, "w") as bundle:
        for number in range(20_050):
            bundle.writestr(f"{number}", b"")
    with pytest.raises(Damaged, match="claims 20,050 files"):
        bundles.read_bundle(path)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, 2**31, 0, 0)
    with pytest.raises(Damaged, match="at most 20,000"):
        bundles.read_bundle(sparse(tmp_path / "c.zip", end, len(end)))


def test_a_child_that_takes_too_much_time_or_memory_is_ended(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))  # where the child finds these
    with pytest.raises(Damaged, match=r"X needs more than 1 s or 6 GiB"):
        limited("tests.unit.disk.greedy:spin", seconds=1, about="X")
    with pytest.raises(Damaged, match="X needs more"):
        limited("tests.unit.disk.greedy:hoard", seconds=30, about="X")
    with pytest.raises(Unsupported, match="as it was said"):
        limited("tests.unit.disk.greedy:refuse", seconds=30, about="X")
    with pytest.raises(Damaged, match=r"^X cannot be read: odd bytes\.$"):
        limited("tests.unit.disk.greedy:stumble", seconds=30, about="X")
    assert limited("builtins:len", [1, 2], seconds=30, about="X") == 2


TEMPLATES = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "doubles": "{% set ns = namespace(s='aa') %}{% for i in range(60) %}"
    "{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
}


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("chat_template.jinja", "loops"),
        pytest.param("tokenizer_config.json", "doubles", marks=pytest.mark.slow),
        pytest.param("named", "loops", marks=pytest.mark.slow),
    ],
)
def test_a_chat_template_that_never_ends_is_refused(name, place, tiny_copy, monkeypatch):
    monkeypatch.setattr("nuggets.models.tried.SECONDS", 4)
    folder = tiny_copy()
    text = TEMPLATES[name]
    if place == "chat_template.jinja":
        (folder / place).write_text(text)
    else:
        path = folder / "tokenizer_config.json"
        value = text if place != "named" else [{"name": "default", "template": text}]
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": value}))
    with pytest.raises(Damaged, match="with its chat template needs more than 4 s"):
        try_tokenizer(parse_ref(str(folder)))


def test_a_template_that_refuses_a_role_is_no_fault_of_its_bounds(tiny_copy):
    folder = tiny_copy()
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no') }}{{ nothing.at.all }}")
    try_tokenizer(parse_ref(str(folder)))


PEFT = {
    "a rank beyond all memory": {"r": 10**9},
    "a rank of nothing": {"r": 0},
    "text for a rank": {"r": "8"},
    "a pattern that never ends": {"rank_pattern": {"(a+)+$": 2}},
    "layers copied a million times": {"layer_replication": [[0, 2]] * 1_000_000},
    "another method": {"peft_type": "ADALORA"},
    "a file to be read": {"init_lora_weights": "corda", "corda_config": {"cache_file": "/etc/x"}},
    "code of its own": {"auto_mapping": {"base_model_class": "X", "parent_library": "os"}},
    "a trained bias": {"bias": "all"},
    "weights decomposed": {"use_dora": True},
    "modules kept whole": {"modules_to_save": ["model"]},
    "another base": {"megatron_core": "os"},
}


@pytest.mark.parametrize("name", PEFT)
def test_options_of_a_strangers_adapter_are_bounded(name, tiny, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    from nuggets.compute.svd import truncated_svd
    from nuggets.extraction.adapter import inject, read_factors, save_adapter
    from nuggets.extraction.plan import LoraConfig
    from nuggets.models.pair import read_spec

    spec = read_spec(parse_ref(str(tiny())))
    module = spec.module("q", 0)
    factors = {module: truncated_svd(torch.ones(spec.shape("q")), 2)}
    peft = inject(AutoModelForCausalLM.from_pretrained(tiny()), factors, LoraConfig(r=2))
    save_adapter(tmp_path, read_factors(peft), {module: 1.0}, spec, "s", "card")
    load_adapter(AutoModelForCausalLM.from_pretrained(tiny()), tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | PEFT[name]))
    with pytest.raises(BadInput, match=r"adapter_config\.json"):
        load_adapter(AutoModelForCausalLM.from_pretrained(tiny()), tmp_path)


def test_a_limit_of_this_machine_below_ours_is_kept_and_not_called_a_fault():
    code = (
        "import resource\nfrom nuggets.disk.limited import limited\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (60, 60))\n"
        "print(limited('json:dumps', 'read', seconds=90, about='X'))\n"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == '"read"\n'


@pytest.mark.parametrize(("age", "content"), [(10, b"a"), (0, b"b"), (-10, b"b")])
def test_a_file_that_changed_a_moment_ago_is_read_again(age, content, tmp_path, monkeypatch):
    """Within one tick of the clock a second change of the same size shows nowhere."""
    file, real = tmp_path / "weights", os.fstat
    tick = int((time.time() - age) * 1e9)

    def coarse(fd):
        found = real(fd)
        kept = {name: getattr(found, name) for name in ("st_mode", "st_ino", "st_size")}
        return SimpleNamespace(**kept, st_mtime_ns=tick, st_ctime_ns=tick, st_ctime=tick / 1e9)

    monkeypatch.setattr(os, "fstat", coarse)
    file.write_bytes(b"a")
    sha256_file(file, tmp_path / "cache")
    file.write_bytes(b"b")
    assert sha256_file(file, tmp_path / "cache") == hashlib.sha256(content).hexdigest()


def test_a_digest_is_remembered_by_many_threads_at_once(tmp_path, monkeypatch):
    """Two drawings of one page ask for the same file at once."""
    monkeypatch.setattr(untrusted, "SETTLED_S", -60)
    file = tmp_path / "weights"
    file.write_bytes(b"x" * 1000)
    together, rename = threading.Barrier(4, timeout=10), os.replace

    def late(*names):  # every thread has written before the first one renames
        together.wait()
        rename(*names)

    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, late)
    with ThreadPoolExecutor(4) as pool:
        digests = set(pool.map(sha256_file, [file] * 4, [tmp_path / "cache"] * 4))
    assert digests == {hashlib.sha256(file.read_bytes()).hexdigest()}
    assert [each.suffix for each in (tmp_path / "cache" / "digests").iterdir()] == [""]
