"""References, digests and the hub: where a name leads, and what is said if it leads nowhere."""

from __future__ import annotations

import os

import pytest

from nuggets.disk import untrusted
from nuggets.errors import BadInput
from nuggets.models import hub
from nuggets.models.pair import read_spec
from nuggets.models.references import SIDE_FILES, model_digest, model_files, model_path, parse_ref


def test_folder_is_kept_as_written_with_its_absolute_path(tiny, monkeypatch):
    monkeypatch.chdir(tiny().parent)
    ref = parse_ref(f" ./{tiny().name} ")
    assert (ref.source, ref.path) == (f"./{tiny().name}", tiny())
    assert (ref.hub_id, ref.format) == (None, "safetensors")


@pytest.mark.parametrize(
    ("text", "hub_id", "revision"),
    [
        ("org/name", "org/name", None),
        ("org/na.me-2@v1.0", "org/na.me-2", "v1.0"),
        ("org/name@refs/pr/3", "org/name", "refs/pr/3"),
    ],
)
def test_hub_id_and_revision(text, hub_id, revision):
    ref = parse_ref(text)
    assert (ref.hub_id, ref.revision, ref.path) == (hub_id, revision, None)


@pytest.mark.parametrize("text", ["", "  ", "a\0b"])
def test_empty_name_is_refused(text):
    with pytest.raises(BadInput, match="The model's name is empty"):
        parse_ref(text)


@pytest.mark.parametrize(
    "text",
    [
        "/no/such",
        "./no",
        "~no-such-user/x",
        "~/no-such-folder",
        "a/b/c",
        "no.gguf",
        "..\\x",
        "no/",
        "x" * 5000,
    ],
)
def test_paths_that_do_not_exist_are_called_so(text):
    with pytest.raises(BadInput, match=r"There is no folder or file|Cannot read 'xxx"):
        parse_ref(text)


@pytest.mark.parametrize("text", ["techer", "org/name@", "org/../x@y", "a b/c", "org/name@a..b"])
def test_what_is_neither_path_nor_hub_id_is_refused(text):
    with pytest.raises(BadInput, match=r"is not a model|There is no folder or file"):
        parse_ref(text)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_pickles_are_refused_as_folder_and_as_file(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"\x80\x04.")
    for text in (tmp_path, tmp_path / name):
        with pytest.raises(BadInput, match=r"unsafe pickle.*convert to safetensors"):
            parse_ref(str(text))


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("x.gguf", "folder of GGUF files; give one of them, such as x.gguf"),
        ("README.md", "contains no model"),
    ],
)
def test_folders_without_weights_say_what_they_lack(tmp_path, name, match):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(BadInput, match=match):
        parse_ref(str(tmp_path))


def test_single_files_that_are_no_model(tiny):
    with pytest.raises(BadInput, match="one file of a model; give the folder"):
        parse_ref(str(tiny() / "model.safetensors"))
    with pytest.raises(BadInput, match="is not a model"):
        parse_ref(str(tiny() / "config.json"))


# Digests


def every_file(tiny_copy):
    """A model in shards with every side file that there can be."""
    folder = tiny_copy(shard_size="20KB")
    for name in SIDE_FILES:
        if not (folder / name).exists():
            (folder / name).write_text("{}")
    return folder


def test_digest_changes_with_every_file_that_is_read_and_with_no_other(tiny_copy, tmp_path):
    ref = parse_ref(str(every_file(tiny_copy)))
    files, seen = model_files(ref), [model_digest(ref)]
    assert set(files) > {"config.json", "model.safetensors.index.json", *SIDE_FILES}
    assert sum(name.endswith(".safetensors") for name in files) > 1
    for file in files.values():
        before = file.read_bytes()
        file.write_bytes(before + b" ")
        seen.append(model_digest(ref, tmp_path / "cache"))
        file.write_bytes(before)
    assert len(set(seen)) == len(files) + 1, "two files gave one digest"
    for name in ("README.md", "tekken.json", "tokenizer.4.0.json", "pytorch_model.bin"):
        (ref.path / name).write_text("{}")
    assert model_digest(ref) == seen[0]


def test_digest_is_remembered_until_the_file_changes(tiny_copy, tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted, "SETTLED_S", -60)  # as if nothing had changed just now
    folder, cache = tiny_copy(), tmp_path / "cache"
    ref = parse_ref(str(folder))
    first = model_digest(ref, cache)
    for memo in (cache / "digests").iterdir():
        memo.write_text("0" * 64)
    assert model_digest(ref, cache) != first, "the memory was not used"
    for file in model_files(ref).values():
        os.utime(file, ns=(1, 1))
    assert model_digest(ref, cache) == first


# Hub


def offline(monkeypatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_offline_model_that_is_not_cached_says_so(monkeypatch):
    offline(monkeypatch)
    match = r"org/no-such-model is not in the local cache and HF_HUB_OFFLINE is set"
    for read in (read_spec, model_path):
        with pytest.raises(BadInput, match=match):
            read(parse_ref("org/no-such-model"))


def gated(status: int = 403):
    from huggingface_hub import errors

    return _hub_error(errors.GatedRepoError, status)


def _hub_error(kind, status: int):
    class Response:
        status_code = status

    error = kind.__new__(kind)
    Exception.__init__(error, "long server message with a URL")
    error.response = Response()
    return error


@pytest.mark.parametrize(
    ("token", "match"),
    [
        (None, "gated and no token was found. Set HF_TOKEN"),
        ("t", "licence has not been accepted with your"),
    ],
)
def test_gated_models_tell_no_token_from_licence_not_accepted(monkeypatch, token, match):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
    sentence = hub.hub_sentence(gated(), "org/name", None)
    assert match in sentence
    assert "https://huggingface.co/org/name" in sentence


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("RepositoryNotFoundError", "There is no folder or Hub model 'org/name'"),
        ("RevisionNotFoundError", "org/name has no revision 'v9'"),
        ("LocalEntryNotFoundError", "the Hub cannot be reached"),
        ("OfflineModeIsEnabled", "HF_HUB_OFFLINE is set"),
        ("HFValidationError", "not a valid Hub id"),
        ("HfHubHTTPError", "HTTP status 500"),
    ],
)
def test_hub_failures_are_sentences(kind, match):
    from huggingface_hub import errors

    assert match in hub.hub_sentence(_hub_error(getattr(errors, kind), 500), "org/name", "v9")


def test_a_full_disk_during_a_download_is_told(monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(BadInput, match="Downloading org/name failed: No space left on device"):
        model_path(parse_ref("org/name"))
