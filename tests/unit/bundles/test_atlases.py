"""Atlases: what is read is what was written, and nothing odd from a stranger is drawn."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from nuggets import api
from nuggets.bundles.atlases import KEY, Atlas, add, atlases, open_atlas
from nuggets.errors import BadInput, Damaged
from tests.app.measured import make_map, write_erasure


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))


@pytest.fixture
def map_folder(tmp_path):
    """A saved map of the teacher with every entry, as a folder; by label."""

    def write(label="reverse", model="/home/me/tiny", **changes):
        folder = tmp_path / f"map-{label}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        found = make_map(api.spec("teacher"), 3, 5, {"label": label, "model": model})
        dataclasses.replace(found, **changes).save(folder)
        return folder

    return write


def test_an_atlas_keeps_sums_in_single_precision_and_not_where_the_model_lies(map_folder):
    folder = map_folder()
    place = add(folder, "tiny", about="Measured here.", licence="Apache-2.0")
    atlas, map = open_atlas("tiny"), api.SensitivityMap.load(folder)
    assert atlas.card.model_dump(exclude={"version"}) == {
        "model": "tiny", "about": "Measured here.", "licence": "Apache-2.0",
    }  # fmt: skip
    kept = atlas.maps["reverse"]
    assert not kept.full
    for module in map.rows:
        np.testing.assert_allclose(kept.rows[module], map.rows[module], rtol=1e-7)
        np.testing.assert_allclose(kept.cols[module], map.cols[module], rtol=1e-7)
    np.testing.assert_allclose(kept.layer_scores, map.layer_scores, rtol=1e-6)
    assert b"/home/me" not in place.read_bytes()


def test_further_skills_of_the_same_model_join_and_nothing_is_replaced(map_folder):
    add(map_folder("reverse"), "tiny", about="one")
    add(map_folder("sub"), "tiny")
    assert list(open_atlas("tiny").maps) == ["reverse", "sub"]
    assert open_atlas("tiny").card.about == "one"
    with pytest.raises(BadInput, match="has map of sub already; nothing is ever replaced"):
        add(map_folder("sub"), "tiny")
    with pytest.raises(BadInput, match="is of other, and the atlas of tiny"):
        add(map_folder("add", model="other"), "tiny")
    with pytest.raises(BadInput, match="is a map by fisher"):
        add(map_folder("king", score="fisher"), "tiny")


def test_an_erasure_joins_the_map_that_it_tests(map_folder, tmp_path):
    report = write_erasure(api.EraseJob(model="teacher", data=api.DataConfig(task="reverse")))
    report = dataclasses.replace(report, meta=dict(report.meta) | {"model": "tiny"})
    (folder := tmp_path / "erased").mkdir()
    report.save(folder)
    with pytest.raises(BadInput, match="no map of reverse yet"):
        add(folder, "tiny")
    add(map_folder(), "tiny")
    add(folder, "tiny")
    kept = open_atlas("tiny").erasures["reverse"]
    for order in report.curves:
        ours, theirs = kept.specificity(order), report.specificity(order)
        assert ours.mean == pytest.approx(theirs.mean, abs=1e-6)


def test_a_file_is_given_away_and_taken(map_folder, tmp_path):
    given = tmp_path / "given"
    given.write_bytes(add(map_folder(), "tiny").read_bytes())
    add(given, "theirs")
    assert set(atlases()) >= {"tiny", "theirs"}
    with pytest.raises(BadInput, match="There is an atlas theirs already"):
        add(given, "theirs")
    with pytest.raises(BadInput, match="cannot name an atlas"):
        add(given, "../theirs")
    with pytest.raises(BadInput, match="There is no atlas 'none'; there are: "):
        open_atlas("none")


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(BadInput, match="holds neither a map nor an erasure"):
        add(tmp_path, "tiny")


@pytest.mark.parametrize("fault", ["NaN", "label", "card"])
def test_what_would_not_open_again_takes_no_place(fault, map_folder):
    place = add(map_folder("reverse"), "tiny")
    before = place.read_bytes()
    found = make_map(api.spec("teacher"), 3, 5, {})
    broken = {"rows": {k: v * math.nan for k, v in found.rows.items()}} if fault == "NaN" else {}
    folder = map_folder("a\nb" if fault == "label" else "sub", **broken)
    with pytest.raises(BadInput, match=r"cannot be put into|does not fit"):
        add(folder, "tiny", about="x" * 10_001 if fault == "card" else "")
    assert place.read_bytes() == before
    assert list(place.parent.iterdir()) == [place]


def rename(heads, tensors, name):
    heads["maps"][name] = heads["maps"].pop("reverse")


CHANGES = {
    "a map of another shape": lambda h, t: h["maps"]["reverse"]["spec"].update(hidden_size=24),
    "more layers": lambda h, t: h["maps"]["reverse"]["spec"].update(n_layers=999),
    "an unknown architecture": lambda h, t: h["maps"]["reverse"]["spec"].update(model_type="x"),
    "another score": lambda h, t: h["maps"]["reverse"].update(score="fisher"),
    "modules that are no names": lambda h, t: h["maps"]["reverse"].update(modules=[1]),
    "no card": lambda h, t: h.pop("card"),
    "a card with more": lambda h, t: h["card"].update(run="x"),
    "no heads": lambda h, t: h.clear(),
    "a name of two lines": lambda h, t: rename(h, t, "a\nb"),
    "a name without end": lambda h, t: rename(h, t, "a" * 101),
    "no samples": lambda h, t: t.update({"maps.reverse.totals": np.zeros((0, 2), np.float32)}),
    "a sum below 0": lambda h, t: next(iter(t.values())).__setitem__(0, -1),
    "NaN": lambda h, t: next(iter(t.values())).__setitem__(0, math.nan),
    "a tensor less": lambda h, t: t.pop(next(iter(t))),
    "an erasure without numbers": lambda h, t: h["erasures"].update(reverse={"schema": 1}),
    "maps as a list": lambda h, t: h.update(maps=[]),
    "facts as a list": lambda h, t: h["maps"]["reverse"].update(meta=["model"]),
    "a digest that is a list": lambda h, t: h["maps"]["reverse"]["meta"].update(digest=[1]),
    "a number as text": lambda h, t: h["maps"]["reverse"]["meta"].update(n_weights="9"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_strangers_atlas_is_refused_in_a_sentence(change, map_folder, tmp_path):
    place = add(map_folder(), "tiny")
    with safe_open(place, framework="np") as file:
        heads = json.loads(file.metadata()[KEY])
    tensors = load_file(place)
    CHANGES[change](heads, tensors)
    save_file(tensors, odd := tmp_path / "odd.atlas.safetensors", {KEY: json.dumps(heads)})
    with pytest.raises(Damaged, match="is not an atlas of Nuggets") as refused:
        Atlas.load(odd)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 64, b"{}" * 40])
def test_what_is_no_safetensors_file_is_refused(content, tmp_path):
    (odd := tmp_path / "odd.atlas.safetensors").write_bytes(content)
    with pytest.raises(Damaged):
        Atlas.load(odd)


def test_what_is_said_of_the_real_model_is_what_its_atlas_has(monkeypatch):
    monkeypatch.delenv("NUGGETS_ASSETS", raising=False)
    atlas = open_atlas("smollm2-135m-instruct")
    assert set(atlas.maps) == {"gsm8k", "mmlu", "super_ni"}
    paper = Path(__file__).parents[3] / "docs" / "paper"
    texts = [" ".join((paper / f"{name}.md").read_text().split())
             for name in ("summary", "preregistration")]  # fmt: skip
    for report in atlas.erasures.values():
        found = report.specificity("specific")
        assert found.low > 0.002 >= report.specificity("theta_grad").low, "double dissociation"
        said = f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]".replace("0.", ".")
        assert all(said in text for text in texts)
    points = atlas.erasures["gsm8k"].points("specific")
    own, other = (next(p.rise for p in points if p.skill == skill and p.weights == 10_617)
                  for skill in ("gsm8k", "mmlu"))  # fmt: skip
    for each in (own, other):
        said = f"{each.mean:.2f} [{each.low:.2f}, {each.high:.2f}]".replace("0.", ".")
        assert all(said.replace("-", "−") in text for text in texts)
