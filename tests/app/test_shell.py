"""The sidebar, the router and the rules for foreign text."""

from __future__ import annotations

import ast
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from nuggets import api
from nuggets.runs.schema import Provenance, RunRecord
from nuggets.ui.frame import live, safe
from tests.app.conftest import HOSTILE, ROOT, ROUTER, rendered, shown
from tests.app.measured import write_benchmark

PAGES = ("home", "models", "sensitivity", "alignment", "transfer", "results", "runs")


def record(**fields):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    base = {
        "id": "r",
        "kind": "transfer",
        "name": "r",
        "status": "running",
        "created": start,
        "started": start,
        "stage": "train",
        "stages": ("load", "sensitivity", "plan", "train", "report"),
        "progress": 0.5,
        "provenance": Provenance(device="cpu"),
        "attempts": 1,
    }
    return RunRecord(**(base | fields))


@pytest.mark.parametrize("name", PAGES)
def test_every_page_opens_in_a_fresh_home(open_page, name):
    at = open_page(name)
    assert at.title, f"{name} has no title"


def test_address_restores_the_sidebar(open_page):
    at = open_page("home", student="sibling", task="king", device="cpu")
    assert at.selectbox("student").value == "sibling"
    assert at.selectbox("task").value == "king"
    assert at.selectbox("device").value == "cpu"


def test_address_with_nonsense_falls_back(open_page):
    at = open_page("home", task="<script>", run="no-such-run")
    assert at.selectbox("task").value == "reverse"
    assert at.selectbox("run").value is None


def test_a_chosen_run_brings_its_pair_and_task_and_another_task_lets_it_go(open_page):
    run = write_benchmark(api.load_recipe("quick", ["student=sibling", "data.task=king"]))
    at = open_page("results", run=run.id, task="add", teacher="independent")
    said = [at.selectbox(key).value for key in ("teacher", "student", "task")]
    assert said == ["teacher", "sibling", "king"]
    assert at.selectbox("run").value == run.id
    assert run.id in at.query_params["run"]
    at.selectbox("task").select("sub").run()
    assert at.selectbox("run").value is None
    assert "run" not in at.query_params
    at.selectbox("run").set_value(run.id).run()
    assert at.selectbox("task").value == "king"


def test_runs_are_called_by_what_they_are_about(tmp_path):
    quick = write_benchmark(api.load_recipe("quick"))
    again = api.create(api.load_recipe("quick"))
    file = tmp_path / "letters.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}')
    api.remember(api.DataConfig(file=str(file)), "my letters")
    own = api.create(api.SensitivityJob(model="teacher", data=api.DataConfig(file=str(file))))
    (own.folder / "record.json").write_text("{")
    names = api.titles([quick, again, own])
    assert names[quick.id].startswith("quick · reverse · teacher → independent · ")
    assert names[again.id] != names[quick.id]
    assert names[own.id].startswith("sensitivity · my letters · teacher · ")
    narrow = api.create(api.load_recipe("quick", ["lora.r=8", "extraction.ratio=0.74"]))
    assert api.about(narrow).title.startswith("quick · r 8, ratio 0.74 · reverse · teacher → ")
    mine = api.create(api.load_recipe("quick", ["name=mine"]))
    assert api.about(mine).title.startswith("mine · reverse · ")
    (own.folder / "recipe.yaml").write_text("x")
    assert api.about(api.open_run(own.id)).title == names[own.id]  # a recipe is read once


def test_a_link_to_a_run_that_is_not_here_says_so(open_page):
    at = open_page("results", run="20260101-000000-quick-gone")
    assert "Run 20260101-000000-quick-gone is not on this machine." in shown(at)
    assert "not on this machine" not in shown(open_page("results"))


def test_address_may_name_any_model(open_page):
    at = open_page("home", teacher="org/name@main")
    assert at.selectbox("teacher").value == "org/name@main"


def test_what_one_session_typed_is_unseen_by_another(open_page):
    api.create(api.load_recipe("quick", ["device=cpu"]))
    one, other = open_page("runs"), open_page("runs")
    one.text_input(key="containing").set_value("mine alone").run()
    one.selectbox(key="status").set_value("failed").run()
    other.run()
    fresh = open_page("runs")
    assert "No run matches" in shown(one)
    for seen in (other, fresh):
        assert seen.text_input(key="containing").value == ""
        assert seen.selectbox(key="status").value == "any"
        assert "mine alone" not in shown(seen)


def test_no_page_keeps_what_a_session_did_outside_its_session():
    """Names of a module are those of every session; caches are keyed by what they are asked."""
    for file in [*(ROOT / "pages").rglob("*.py"), *(ROOT / "nuggets" / "ui").rglob("*.py")]:
        for node in ast.walk(tree := ast.parse(file.read_text())):
            assert not isinstance(node, ast.Global), file
        for node in tree.body:
            value = getattr(node, "value", None)
            empty = (
                isinstance(value, ast.List | ast.Dict | ast.Set) and not ast.unparse(value)[1:-1]
            )
            made = isinstance(value, ast.Call) and ast.unparse(value) in (
                "set()",
                "dict()",
                "list()",
            )
            assert not (isinstance(node, ast.Assign | ast.AnnAssign) and (empty or made)), file


def test_queue_shows_live_runs(open_page, wait_for):
    run = api.start(api.load_recipe("quick").model_copy(update={"name": "slow"}))
    wait_for(run, "running")
    lines = open_page("home").sidebar.get("progress")
    assert any(line.proto.text.startswith("slow") for line in lines)
    api.cancel(run.id)
    wait_for(run, "cancelled")
    assert not open_page("home").sidebar.get("progress")


def test_labels_disarm_markdown():
    text = safe.label(HOSTILE, most=200)
    assert ":red" not in text
    assert "\\*\\*bold\\*\\*" in text
    assert "\\<img" in text
    assert "\\[link\\]\\(" in text


def test_refused_button_is_shown_once(open_page):
    at = open_page("transfer")
    at.session_state["nuggets-refused"] = HOSTILE
    at.run()
    assert HOSTILE in shown(at)
    assert HOSTILE not in rendered(at)
    assert HOSTILE not in shown(at.run())


def test_overall_progress_counts_stages_by_their_weight():
    weights = [1, live.STAGE_WEIGHTS["sensitivity"], 1, live.STAGE_WEIGHTS["train"], 1]
    expected = (sum(weights[:3]) + weights[3] / 2) / sum(weights)
    assert live.overall(record()) == pytest.approx(expected)
    assert live.overall(record(status="done", stage="", progress=None)) == 1.0
    assert live.overall(record(stage="", progress=None)) == 0.0


def test_estimate_follows_the_last_ticks_and_is_withheld_early():
    start = datetime(2026, 1, 1, tzinfo=UTC)
    ticks = [(start + timedelta(seconds=10 * n), n / 10) for n in range(5)]
    last = ticks[-1][0]
    assert live.remaining(ticks, last) == pytest.approx((60, 60))  # 6 tenths at 10 s each
    assert live.remaining(ticks, last + timedelta(seconds=5)) == pytest.approx((55, 55))
    assert live.remaining(ticks, last + timedelta(hours=1)) == (0, 0)
    assert live.remaining(ticks[:2], last) is None  # the first step may count warming up
    assert [live._between(left) for left in (None, (7.0, 394.0), (0.4, 6.0), (29.0, 36.0))] == [
        "no estimate yet", "no estimate yet", "0.4 to 6.0 s", "29 to 36 s"
    ]  # fmt: skip
    uneven = [*ticks, (last + timedelta(seconds=30), 0.5)]
    assert live.remaining(uneven, uneven[-1][0]) == pytest.approx((50, 150))
    skipped = [(start, 0.0), *[(start, 0.5)] * 9]
    skipped += [(start + timedelta(seconds=4 * n), 0.5 + n / 10) for n in (1, 2)]
    assert live.remaining(skipped, skipped[-1][0]) == pytest.approx(
        (12, 12)
    )  # not the skipped half


def test_app_and_pages_never_import_torch():
    code = (
        "import sys; from streamlit.testing.v1 import AppTest\n"
        f"at = AppTest.from_file({str(ROUTER)!r}, default_timeout=60).run()\n"
        "assert not at.exception, at.exception\n"
        f"for name in {PAGES[1:]!r}:\n"
        "    at.switch_page(f'../../pages/{name}.py').run()\n"
        "    assert not at.exception, (name, at.exception)\n"
        "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[]"


def test_modules_brought_before_the_first_page_are_not_searched_for_garbage() -> None:
    code = "import gc; from nuggets.ui import serving; serving._import_all(); "
    code += "frozen = gc.get_freeze_count(); print(frozen > 50_000 > len(gc.get_objects()))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.stdout == "True\n", told.stderr


@pytest.mark.parametrize("name", ["learn", "sensitivity", "alignment"])
def test_what_can_be_no_device_is_said_and_auto_is_used(open_page, name):
    assert "“-1” names no device: auto is used." in shown(open_page(name, device="-1"))
