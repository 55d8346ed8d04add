"""Hub models through the command line, against a local server that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nuggets.errors import BadInput, NuggetsError
from nuggets.models.references import parse_ref

COMMIT = "1" * 40
ACCEPTED, STRANGER, STALE = (f"hf_{letter * 20}" for letter in "ABC")
GATED = "org/gated"


class Hub(ThreadingHTTPServer):
    """Two repositories, an open and a gated one, with the same files."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()}
        self.seen: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        token = (self.headers.get("authorization") or "").removeprefix("Bearer ") or None
        self.server.seen.append((self.command, self.path, token))
        if token == STALE:
            told = "Invalid credentials in Authorization header"
            return self.send(401, b"", {"X-Error-Message": told})
        repo = next((r for r in ("org/open", GATED) if f"/{r}" in path), None)
        if repo is None:
            return self.send(404 if token else 401, b"", {"X-Error-Code": "RepoNotFound"})
        revision = re.search(r"/(?:revision|resolve|tree)/([^/]+)", path)
        if revision and revision[1] not in ("main", COMMIT):
            return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        content = self.server.files.get(path.rpartition("/")[2])
        if path.startswith("/api/"):
            return self.send(200, json.dumps(self.listing(repo, path)).encode())
        if repo == GATED and token != ACCEPTED:
            return self.send(403 if token else 401, b"", {"X-Error-Code": "GatedRepo"})
        if content is None:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self.send(200, content, {"ETag": etag, "X-Repo-Commit": COMMIT})
        return None

    def listing(self, repo: str, path: str) -> object:
        sizes = {name: len(content) for name, content in self.server.files.items()}
        if "/tree/" in path:
            return [
                {"type": "file", "path": name, "size": size, "oid": "0" * 40}
                for name, size in sizes.items()
            ]
        names = [{"rfilename": name} for name in sizes]
        return {"id": repo, "sha": COMMIT, "siblings": names, "tags": [], "private": False}

    def send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range") or "")
        whole = len(content)
        if asked and status == 200:
            start, end = int(asked[1]), min(int(asked[2] or whole - 1), whole - 1)
            content, status = content[start : end + 1], 206
            headers = {**(headers or {}), "Content-Range": f"bytes {start}-{end}/{whole}"}
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def server(tiny) -> Iterator[Hub]:
    with Hub(tiny()) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def command(server, tmp_path):
    """A command in a process of its own: the hub's address is read when its client is imported."""

    def call(*words: object, program: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING_FACE"))}
        own = {
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(tmp_path / "hf"),
            "NUGGETS_HOME": str(tmp_path / "home"),
            "HOME": str(tmp_path),
        }
        return subprocess.run(
            [
                sys.executable,
                *(("-c", program) if program else ("-m", "nuggets")),
                *map(str, words),
            ],
            env=kept | own | extra,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return call


def one_sentence(ended: subprocess.CompletedProcess[str]) -> str:
    assert ended.returncode == 2, ended
    lines = ended.stderr.strip().splitlines()
    assert "Traceback" not in ended.stderr, ended.stderr
    return lines[0]


def test_preflight_reads_headers_and_downloads_no_weights(command, server, tiny, tmp_path):
    student = tiny(hidden_size=16, num_attention_heads=2, num_key_value_heads=1)
    ended = command("preflight", "org/open@main", student, "--json")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["teacher"]["source"] == "org/open@main"
    assert found["teacher"]["bytes_to_download"] > 0
    assert found["vocabularies"] == "agree"
    cached = [file.name for file in (tmp_path / "hf").rglob("*")]
    assert "config.json" in cached, "HF_HOME is honoured"
    assert "model.safetensors" not in cached


@pytest.mark.slow
def test_a_download_tells_its_progress_and_serves_offline_afterwards(
    command, tiny, jsonl, tmp_path
):
    seeds = jsonl(tmp_path / "seeds.jsonl", {"1 2": "3"})
    first = [
        "sensitivity",
        "org/open",
        "--seed-samples",
        seeds,
        "--device",
        "cpu",
        "--keep",
        "sums",
    ]
    ended = command(*first, "--out", tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out" / "map.safetensors").is_file()
    student = tiny(hidden_size=16, num_attention_heads=2, num_key_value_heads=1)
    nowhere = "http://127.0.0.1:9"
    for extra in ({"HF_HUB_OFFLINE": "1"}, {}):  # asked to be offline, or cut off
        ended = command("preflight", "org/open", student, "--json", HF_ENDPOINT=nowhere, **extra)
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout)["teacher"]["bytes_to_download"] == 0
    ended = command("preflight", "org/other", student, HF_ENDPOINT=nowhere)
    assert "org/other is not in the local cache and the Hub cannot be reached" in ended.stderr
    assert ended.stderr.count("\n") == 1, "one sentence at once, and no retries"
    ended = command("preflight", "org/other", student, HF_HUB_OFFLINE="1")
    assert "org/other is not in the local cache and HF_HUB_OFFLINE is set" in one_sentence(ended)


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (None, "org/gated is gated and no token was found"),
        (STRANGER, "org/gated is gated, and its licence has not been accepted with your token"),
        (STALE, "The Hub does not accept your token"),
    ],
    ids=["no token", "licence not accepted", "token unknown"],
)
def test_gated_models_say_what_is_missing(command, server, token, words):
    extra = {} if token is None else {"HF_TOKEN": token}
    ended = command("preflight", GATED, "independent", **extra)
    assert words in one_sentence(ended)
    assert {seen for _, _, seen in server.seen} - {None} == {token} - {None}, "HF_TOKEN is honoured"


def test_a_token_stands_in_no_url_text_or_file(command, server, tiny, jsonl, tmp_path):
    seeds = jsonl(tmp_path / "seeds.jsonl", {"1 2": "3"})
    words = ["sensitivity", GATED, "--seed-samples", seeds, "--device", "cpu", "--keep", "sums"]
    ended = command(*words, "--out", tmp_path / "out", HF_TOKEN=ACCEPTED)
    assert ended.returncode == 0, ended.stderr
    assert ACCEPTED in {token for _, _, token in server.seen}
    assert not [path for _, path, _ in server.seen if ACCEPTED in path]
    assert ACCEPTED not in ended.stdout + ended.stderr
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not [file for file in files if ACCEPTED.encode() in file.read_bytes()]


def test_a_wrong_name_and_a_wrong_revision_are_told_apart(command):
    assert "no folder or Hub model 'org/nobody'" in one_sentence(
        command("preflight", "org/nobody", "independent")
    )
    ended = command("preflight", "org/open@v9", "independent")
    assert "org/open has no revision 'v9'" in one_sentence(ended)


PROGRESS = """
import json, sys
from nuggets.models.hub import hub_folder
from nuggets.progress import InMemoryProgress
from nuggets.errors import Cancelled

progress, told = InMemoryProgress(), []
progress.cancel()
try:
    hub_folder("org/open", None, progress)
except Cancelled:
    told.append("cancelled")
progress = InMemoryProgress()
progress.progress = lambda done, total, message="", **_: told.append((done, total, message))
print(json.dumps([str(hub_folder("org/open", None, progress)), told]))
"""


def test_a_download_can_be_cancelled_and_counts_the_bytes_it_writes(command, server):
    whole = server.files["model.safetensors"]
    again = ("consolidated.safetensors", "fp16/model.safetensors")  # the same model once more
    server.files |= dict.fromkeys(again, whole)
    ended = command(program=PROGRESS)
    assert ended.returncode == 0, ended.stderr
    folder, (first, *told) = json.loads(ended.stdout)
    assert first == "cancelled"
    done, total, message = told[-1]
    assert message == "downloading org/open"
    assert 2 * len(whole) > done == total > len(whole)
    assert [d for d, _, _ in told] == sorted(d for d, _, _ in told)
    assert Path(folder, "model.safetensors").read_bytes() == whole
    assert not any(Path(folder, name).exists() for name in again)
    assert "%|" not in ended.stderr, "no bars of the hub's own"


@pytest.mark.parametrize("text", [f"https://user:{ACCEPTED}@host/org/name", f"org/name@{ACCEPTED}"])
def test_a_token_in_a_models_name_is_refused_and_not_repeated(text):
    with pytest.raises(BadInput, match=r"holds an access token.*HF_TOKEN") as refused:
        parse_ref(text)
    assert ACCEPTED not in str(refused.value)


def test_no_error_of_ours_repeats_a_token():
    assert str(NuggetsError(f"The header was {ACCEPTED}.")) == "The header was hf_…."
