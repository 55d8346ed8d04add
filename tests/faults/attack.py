"""`python -m tests.faults.attack CHECKOUT`: what once broke Nuggets, tried by its commands.

Each attack is a file or an address from a stranger, and what must not come of it. It needs nothing
of a checkout but the command line, so that old versions can be attacked too. Prints `held` or
`BROKEN` for each; the exit code counts the broken ones.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import yaml

from tests.conftest import _write_model

PATIENCE_S = 240
"""For a command that takes seconds on an idle machine."""
CPU_S = 120
MEMORY = 3_000_000_000
"""Bytes of data; what reads headers needs a small part of it, torch included."""


class Ended(NamedTuple):
    """How a command ended; code None if it did not."""

    code: int | None
    said: str


class Victim:
    """A checkout, with a home and a folder for hostile files."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        self.checkout, self.folder = checkout, folder
        self.model = folder / "model"
        if not self.model.exists():
            _write_model(self.model, "llama", 0, "1GB", {})
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(checkout),
            "NUGGETS_HOME": str(folder / "home"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *words: object) -> Ended:
        """A command of the checkout, with limits that a harmless file never meets."""
        command = [sys.executable, "-m", "nuggets", *map(str, words)]
        try:
            ended = subprocess.run(
                command, env=self.environment, cwd=self.checkout, capture_output=True, text=True,
                stdin=subprocess.DEVNULL, timeout=PATIENCE_S, preexec_fn=_limits,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Ended(None, "it never ended")
        return Ended(ended.returncode, ended.stdout + ended.stderr)

    def copy(self, name: str) -> Path:
        """A copy of the harmless model."""
        target = self.folder / name
        shutil.copytree(self.model, target)
        return target

    def refuses(self, *words: object) -> None:
        """The command says no in a sentence, as of input that cannot work."""
        ended = self.run(*words)
        assert ended.code == 2, f"exit code {ended.code}: {ended.said[-200:]}"
        assert "Traceback" not in ended.said, ended.said[-200:]


def _limits() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


def an_adapter_beside_the_weights(victim: Victim) -> None:
    folder = victim.copy("adapter")
    config = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "lora_alpha": 64}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    victim.refuses("preflight", folder, victim.model)


def a_size_that_is_text(victim: Victim) -> None:
    folder = victim.copy("text")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": "32"}))
    victim.refuses("preflight", folder, victim.model)


def a_configuration_in_utf_16(victim: Victim) -> None:
    folder = victim.copy("utf16")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text, encoding="utf-16")
    victim.refuses("preflight", folder, victim.model)


def a_kind_that_is_a_list(victim: Victim) -> None:
    folder = victim.copy("list")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": ["llama"]}))
    victim.refuses("preflight", folder, victim.model)


def no_key_value_heads(victim: Victim) -> None:
    folder = victim.copy("heads")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 0}))
    victim.refuses("preflight", folder, victim.model)


def a_pipe_as_configuration(victim: Victim) -> None:
    folder = victim.copy("pipe")
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    victim.refuses("preflight", folder, victim.model)


def a_pipe_as_bundle(victim: Victim) -> None:
    os.mkfifo(victim.folder / "bundle.zip")
    victim.refuses("import", victim.folder / "bundle.zip")


def a_pipe_as_the_record_of_a_run(victim: Victim) -> None:
    folder = victim.folder / "home" / "runs" / "20260101-000000-theirs-0000"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "record.json")
    ended = victim.run("list")
    shutil.rmtree(folder)
    assert (ended.code, "damaged" in ended.said) == (0, True), ended.said[-200:]


def a_gguf_that_claims_gigabytes(victim: Victim) -> None:
    field = struct.pack("<Q", 1) + b"x" + struct.pack("<IIQ", 9, 0, 90_000_000)
    path = victim.folder / "sparse.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + field)
    with path.open("r+b") as file:
        file.truncate(5 * 2**30)
    victim.refuses("preflight", path, victim.model)


def a_chat_template_without_end(victim: Victim) -> None:
    folder = victim.copy("template")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    endless = "{% for a in range(10**6) %}{% for b in range(10**6) %}{% endfor %}{% endfor %}x"
    settings["chat_template"] = endless
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    samples = victim.folder / "one.jsonl"
    samples.write_text('{"prompt": "1 2", "completion": "3"}\n')
    victim.refuses("prompt", folder, "--data", samples, "--format", "chat")


def yaml_that_multiplies(victim: Victim) -> None:
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    for this, before in zip("bcdefghi", "abcdefgh", strict=True):
        lines.append(f"{this}: &{this} [{','.join([f'*{before}'] * 9)}]")
    path = victim.folder / "bomb.yaml"
    path.write_text("\n".join(lines))
    victim.refuses("plan", path)


def _recipe(victim: Victim, **fields: object) -> Path:
    tree = yaml.safe_load((victim.checkout / "nuggets" / "recipes" / "quick.yaml").read_text())
    (victim.folder / "theirs").mkdir(exist_ok=True)
    path = victim.folder / "theirs" / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree | {"device": "cpu"} | fields))
    return path


def a_label_that_is_a_path(victim: Victim) -> None:
    arms = [{"kind": "plain"}, {"kind": "paper", "label": "../../../x"}]
    victim.refuses("plan", _recipe(victim, arms=arms))


def a_recipe_that_reads_private_files(victim: Victim) -> None:
    private = victim.folder / "private.jsonl"
    lines = ({"prompt": f"a b {n}", "completion": "b a"} for n in range(400))
    private.write_text("\n".join(map(json.dumps, lines)))
    ended = victim.run("plan", _recipe(victim, data={"file": str(private)}))
    assert ended.code == 2
    assert "nuggets allow" in ended.said, "it was read: " + ended.said[-200:]


def a_name_longer_than_any_file(victim: Victim) -> None:
    victim.refuses("preflight", "x" * 300, victim.model)


def a_page_of_another_port(victim: Victim) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    server = subprocess.Popen(
        [sys.executable, *words, "--server.headless", "true"], env=victim.environment,
        cwd=victim.checkout, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        own, foreign = f"127.0.0.1:{port}", "http://127.0.0.1:9"
        deadline = time.monotonic() + PATIENCE_S
        while _ask(own, "/", None).partition(b" ")[2][:3] != b"200":
            assert time.monotonic() < deadline, "the app did not start"
            time.sleep(0.5)
        assert b"x-frame-options: deny" in _ask(own, "/", None).lower(), "any page can frame it"
        answer = _ask(own, "/_stcore/stream", foreign)
        assert b" 101 " not in answer.split(b"\r\n")[0], "another origin opened the websocket"
    finally:
        server.kill()
        server.wait()


def _ask(own: str, path: str, origin: str | None) -> bytes:
    host, port = own.split(":")
    upgrade = (
        f"Origin: {origin}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    )
    head = f"GET {path} HTTP/1.1\r\nHost: {own}\r\n{upgrade if origin else ''}\r\n"
    try:
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(head.encode())
            return connection.recv(4000)
    except OSError:
        return b""


ATTACKS: tuple[Callable[[Victim], None], ...] = (
    an_adapter_beside_the_weights,
    a_size_that_is_text,
    a_configuration_in_utf_16,
    a_kind_that_is_a_list,
    no_key_value_heads,
    a_pipe_as_configuration,
    a_pipe_as_bundle,
    a_pipe_as_the_record_of_a_run,
    a_gguf_that_claims_gigabytes,
    a_chat_template_without_end,
    yaml_that_multiplies,
    a_label_that_is_a_path,
    a_recipe_that_reads_private_files,
    a_name_longer_than_any_file,
    a_page_of_another_port,
)


def main() -> int:
    """Attacks one checkout."""
    broken = 0
    with tempfile.TemporaryDirectory() as folder:
        victim = Victim(Path(sys.argv[1]).absolute(), Path(folder))
        harmless = victim.run("preflight", victim.model, victim.model)
        assert harmless.code == 0, f"the harmless model is refused: {harmless.said[-300:]}"
        for attack in ATTACKS:
            name = attack.__name__.replace("_", " ")
            try:
                attack(victim)
                print(f"held    {name}", flush=True)
            except AssertionError as fault:
                broken += 1
                print(f"BROKEN  {name}: {' '.join(str(fault).split())[:160]}", flush=True)
    return broken


if __name__ == "__main__":
    sys.exit(main())
