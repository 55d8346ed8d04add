"""`nuggets prune` shows first, deletes what it showed, and never touches what lives or is named."""

from __future__ import annotations

import os

import pytest

from nuggets import api
from nuggets.disk.home import cache_dir, nuggets_home
from nuggets.errors import BadInput
from nuggets.runs.context import RunContext
from nuggets.workspace import pruning

OLD = 1_000_000_000


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))


def aged(path):
    for each in (path, *(path.rglob("*") if path.is_dir() else ())):
        os.utime(each, (OLD, OLD))
    return path


def ended():
    run = api.create(api.load_recipe("quick", ["device=cpu"]))
    aged(run.folder)
    return run


def upload(jsonl, tmp_path, word):
    source = jsonl(tmp_path / "x.jsonl", {f"{word} {i}": f"{i}" for i in range(40)})
    return aged(api.save_upload(source.read_bytes(), word))


def test_first_it_only_lists_with_sizes(nuggets):
    run = ended()
    told = nuggets("prune")
    assert told.code == 0
    assert run.id in told.out
    assert "Add --yes to delete them." in told.err
    [piece] = [p for p in nuggets("prune", "--json").json["pieces"] if p["kind"] == "runs"]
    assert piece["size"] == sum(f.stat().st_size for f in run.folder.rglob("*") if f.is_file())
    assert run.folder.is_dir()


def test_a_size_counts_files_below_and_no_links(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_bytes(b"x" * 70)
    (tmp_path / "a/d").write_bytes(b"x" * 30)
    (tmp_path / "a/away").symlink_to("/usr")
    (tmp_path / "a/file").symlink_to(tmp_path / "a/d")
    assert pruning.size_of(tmp_path) == 100
    assert (pruning.size_of(tmp_path / "a/d"), pruning.size_of(tmp_path / "a/away")) == (30, 0)
    assert pruning.size_of(tmp_path / "none") == 0


def test_a_run_is_measured_again_only_after_its_worker_wrote(monkeypatch):
    run = ended()
    size, real = pruning.run_size(run), os.scandir
    assert size == pruning.size_of(run.folder) > 0
    monkeypatch.setattr(os, "scandir", lambda path: pytest.fail("walked again"))
    assert pruning.run_size(run) == size
    monkeypatch.setattr(os, "scandir", real)
    (run.folder / "output.log").write_bytes(b"x" * 1000)
    os.utime(run.record_path)
    assert pruning.run_size(run) == size + 1000
    run.record_path.unlink()  # damaged
    assert pruning.run_size(run) == pruning.size_of(run.folder)


def test_with_yes_what_was_listed_is_gone_and_what_is_young_stays(nuggets):
    run, young = ended(), api.create(api.load_recipe("quick", ["device=cpu"]))
    assert nuggets("prune", "runs", "--yes").code == 0
    assert [each.id for each in api.runs()] == [young.id]
    assert not run.folder.exists()


def test_a_live_run_stays_and_keeps_the_caches(nuggets):
    run = ended()
    (cache_dir() / "maps").mkdir(parents=True)
    with run.owned():
        ctx = RunContext(run)
        ctx.begin_attempt()
        ctx.close()
        aged(run.folder)
        assert run.status() == "queued"
        assert nuggets("prune", "--yes", "--json").json["pieces"] == []
    assert run.folder.is_dir()
    assert (cache_dir() / "maps").is_dir()


def test_a_run_that_lives_again_between_list_and_deletion_stays():
    run = ended()
    listed = pruning.prunable(("runs",))
    with run.owned():
        assert pruning.prune(listed) == ()
    assert run.folder.is_dir()


def test_an_upload_that_a_run_a_sweep_or_a_recipe_names_stays(nuggets, jsonl, tmp_path):
    by_run, by_recipe = upload(jsonl, tmp_path, "one"), upload(jsonl, tmp_path, "two")
    unused, by_sweep = upload(jsonl, tmp_path, "three"), upload(jsonl, tmp_path, "four")
    own = ["device=cpu", f"data.file='{by_sweep}'"]
    api.sweeping.store().create("sweep", api.dump_job(api.load_recipe("quick", own)), "s")
    recipe = api.load_recipe("quick", ["device=cpu", f"data.file='{by_run}'", "data.n_test=8",
                                       "train.lr_grid=[]"])  # fmt: skip
    api.create(recipe)
    api.save_recipe(api.load_recipe("quick", [f"data.file='{by_recipe}'"]), "mine")
    assert nuggets("prune", "uploads", "--yes").code == 0
    assert by_run.is_file()
    assert by_recipe.is_file()
    assert by_sweep.is_file()
    assert not unused.exists()


def test_nothing_outside_the_home_is_deleted(tmp_path):
    outside = tmp_path / "mine"
    outside.mkdir()
    with pytest.raises(BadInput, match="is not one of the runs of this home"):
        pruning.prune([pruning.Piece(kind="runs", path=outside, size=0)])
    assert outside.is_dir()
    assert nuggets_home() != outside
