"""Bundles: whole round trips, and every hostile archive refused with nothing written."""

from __future__ import annotations

import hashlib
import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nuggets import api
from nuggets.bundles import bundle as bundles
from nuggets.disk.manifest import verify_folder, write_manifest
from nuggets.errors import BadInput, Damaged
from tests.app.measured import write_benchmark

Files = dict[str, bytes]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A finished transfer as one file; the run itself is gone."""
    folder = tmp_path_factory.mktemp("bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUGGETS_HOME", str(folder / "home"))
        run = write_benchmark(api.load_recipe("quick", ["device=cpu"]), question="<b>q</b>")
        run.set_notes("what I saw")
        bundles.write_bundle(run, folder / "run.zip")
    return (folder / "run.zip").read_bytes()


@pytest.fixture
def bundle(whole: bytes, tmp_path: Path) -> Path:
    """A copy of the bundle that the test may damage."""
    path = tmp_path / "run.nuggets.zip"
    path.write_bytes(whole)
    return path


@pytest.fixture
def changed(bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """`changed(edit)`: the bundle after `edit(files, index)`, zipped again."""

    def make(edit: Callable[[Files, dict], None], reindex: bool = True) -> Path:
        with zipfile.ZipFile(bundle) as old:
            files = {name: old.read(name) for name in old.namelist()}
        index = json.loads(files[bundles.INDEX])
        edit(files, index)
        if reindex:
            files[bundles.INDEX] = json.dumps(index).encode()
        out = tmp_path / "changed.zip"
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
            for name, data in files.items():
                new.writestr(name, data)
        return out

    return make


def entry(data: bytes) -> dict[str, object]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def put(name: str, data: bytes) -> Callable[[Files, dict], None]:
    """An edit that adds a file and lists it correctly."""

    def edit(files: Files, index: dict) -> None:
        files[name] = data
        index["files"][name] = entry(data)

    return edit


def refused(path: Path, home: Path, words: str) -> None:
    before = sorted(p for p in home.rglob("*") if p.is_file())
    with pytest.raises(BadInput, match=words):
        bundles.read_bundle(path)
    assert sorted(p for p in home.rglob("*") if p.is_file()) == before
    assert api.runs() == []
    assert not list(home.rglob(".tmp-*"))


def test_a_bundle_opens_without_models_as_the_same_run(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("NUGGETS_ASSETS", str(tmp_path / "no-models"))
    run = bundles.read_bundle(bundle)
    assert run.status() == "done"
    assert run.notes() == "what I saw"
    report = api.report(run)
    assert report is not None
    assert len(api.cells(run)) == sum(len(arm.seeds) for arm in report.arms.values())
    assert len(api.answers(run, "paper", 0)) == report.n_items
    for manifest in run.folder.rglob("manifest.json"):
        verify_folder(manifest.parent)
    bundles.write_bundle(run, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == bundle.read_bytes()


def test_the_page_inside_shows_the_verdict_and_no_markup_of_others(bundle):
    with zipfile.ZipFile(bundle) as opened:
        page = opened.read(bundles.PAGE).decode()
    assert "No detectable difference between paper and plain" in page
    assert "<script" not in page
    assert page.count("<circle") == 12  # four arms with three seeds


def test_whole_models_stay_behind_and_the_rest_verifies(tmp_path):
    run = write_benchmark(api.load_recipe("quick", ["device=cpu"]))
    cell = run.folder / "artifacts" / "cells" / "plain-0"
    (cell / "model").mkdir()
    (cell / "model" / "model.safetensors").write_bytes(b"x" * 100)
    from nuggets.disk.manifest import write_manifest

    (cell / "manifest.json").unlink()
    write_manifest(cell)
    index = bundles.write_bundle(run, tmp_path / "b.zip")
    assert index.left_out == ("artifacts/cells/plain-0/model/model.safetensors",)
    api.delete(run.id)
    found = bundles.read_bundle(tmp_path / "b.zip")
    verify_folder(found.folder / "artifacts" / "cells" / "plain-0")


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json",
        "artifacts/../../evil.json",
        "/etc/evil.json",
        "artifacts/./x.json",
        "artifacts//x.json",
        "artifacts/.hidden/x.json",
        "artifacts\\x.json",
        "artifacts/x\n.json",
        "artifacts/evil.py",
        "artifacts/model.pkl",
        "lock",
        "output.log",
        "checkpoints/x.json",
        "artifacts/report/manifest.json",
    ],
)
def test_names_that_no_run_has_are_refused(changed, home, name):
    refused(changed(put(name, b"{}")), home, "not part of a run")


def test_links_are_refused(bundle, home):
    with zipfile.ZipFile(bundle, "a") as opened:
        link = zipfile.ZipInfo("artifacts/link.json")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(link, "/etc/passwd")
    refused(bundle, home, "not a plain file")


def test_a_bomb_is_refused_before_it_is_unpacked(changed, home, monkeypatch):
    monkeypatch.setattr(bundles, "FREE_BYTES", 10_000)
    refused(changed(put("artifacts/zeros.json", bytes(20_000_000))), home, "would unpack to")


def test_lies_about_sizes_are_refused(changed, home):
    def edit(files, index):
        index["files"]["notes.txt"]["size"] = 3

    refused(changed(edit), home, "gives false sizes")


def test_wrong_hashes_are_refused(changed, home):
    def edit(files, index):
        files["notes.txt"] = b"what I SAW"

    refused(changed(edit), home, "does not match its sha256")


def test_unlisted_and_missing_files_are_refused(changed, home):
    def add(files, index):
        files["artifacts/extra.json"] = b"{}"

    def drop(files, index):
        del files["recipe.yaml"]

    refused(changed(add), home, "does not contain the files it lists")
    refused(changed(drop), home, "does not contain the files it lists")


@pytest.mark.parametrize("run_id", ["../up", "", "20260101-000000-A", "x" * 300, ".hidden"])
def test_ids_that_are_no_runs_are_refused(changed, home, run_id):
    def edit(files, index):
        index["run"] = run_id

    refused(changed(edit), home, "not a valid run id")


def test_folders_that_hold_nothing_are_refused(changed, home):
    def edit(files, index):
        index["folders"].append("artifacts/../..")

    refused(changed(edit), home, "names a folder")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("record.json", b"{}"),
        ("recipe.yaml", b"- 1"),
        ("artifacts/report/report.json", b"[]"),
        ("artifacts/cells/plain-0/cell.json", b'{"arm": 1}'),
    ],
)
def test_contents_that_cannot_be_read_are_refused(changed, home, name, data):
    refused(changed(put(name, data)), home, "cannot be read|does not fit|not YAML|mapping|recipe")


def test_a_run_that_says_it_is_running_is_refused(changed, home):
    def edit(files, index):
        record = json.loads(files["record.json"]) | {"status": "running"}
        put("record.json", json.dumps(record).encode())(files, index)

    refused(changed(edit), home, "had not ended")


def test_what_is_no_zip_is_refused(tmp_path, home):
    path = tmp_path / "x.zip"
    path.write_bytes(b"PK\x03\x04 nonsense")
    refused(path, home, "not a bundle of Nuggets")
    refused(tmp_path / "missing.zip", home, "There is no file")


def test_every_cut_of_a_bundle_is_refused(whole, tmp_path, home):
    path = tmp_path / "cut.zip"
    for part in range(1, 20):
        path.write_bytes(whole[: len(whole) * part // 20])
        refused(path, home, "bundle")


def test_nothing_is_overwritten(bundle, tmp_path):
    run = bundles.read_bundle(bundle)
    with pytest.raises(BadInput, match="already exists here"):
        bundles.read_bundle(bundle)
    with pytest.raises(BadInput, match="nothing is ever overwritten"):
        bundles.write_bundle(run, bundle)


def test_an_altered_artifact_is_not_bundled(bundle, tmp_path):
    run = bundles.read_bundle(bundle)
    (run.folder / "artifacts" / "cells" / "plain-0" / "answers.json").write_text("[]")
    with pytest.raises(Damaged, match=r"does not match its sha256"):
        bundles.write_bundle(run, tmp_path / "b.zip")
    assert not (tmp_path / "b.zip").exists()


def test_an_upload_is_named_as_such_in_errors(home):
    with pytest.raises(Damaged, match=r"^The upload is not a bundle"):
        bundles.read_upload(b"no zip")
    assert not list(home.glob("upload-*"))


def test_bundle_and_import_from_the_command_line(nuggets, bundle, tmp_path):
    found = nuggets("import", bundle, "--json")
    assert found.code == 0
    written = nuggets("bundle", found.json["run"], "--out", tmp_path / "out.zip", "--json")
    assert written.json["run"] == found.json["run"]
    assert nuggets("import", tmp_path / "none.zip").code == 2


def test_a_light_bundle_leaves_weights_behind_and_its_arms_do_not_pretend_to_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_benchmark(api.load_recipe("quick", ["device=cpu"]))
    for cell in run.folder.glob("artifacts/cells/*"):
        (cell / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
        (cell / "manifest.json").unlink()
        write_manifest(cell)
    assert {each.arm for each in api.playground.speakers_of(run)} > {"paper"}
    index = bundles.write_bundle(run, tmp_path / "light.zip", weights=False)
    assert index.left_out
    assert all(name.endswith("/adapter/adapter_model.safetensors") for name in index.left_out)
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "elsewhere"))
    found = bundles.read_bundle(tmp_path / "light.zip")
    assert api.report(found) == api.report(run)
    assert {each.arm for each in api.playground.speakers_of(found)} == {"vanilla"}


def test_the_run_that_ships_opens_and_is_the_recipe_of_its_name() -> None:
    run = api.shipped_run()
    assert run.status() == "done"
    assert api.job_of(run) == api.load_recipe(run.record().name)
    report = api.report(run)
    assert report is not None
    assert (report.verdict.kind, len(report.verdict.sentence) > 0) == ("helps", True)
    assert api.shipped_run().id == run.id  # once it is here it is not read again
