"""The three people the app is made for, from a fresh server to what they came for."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from nuggets import api
from nuggets.statistics.verdict import KIND_WORDS
from tests.browser.conftest import WORK_MS, click_cell, idle, until

pytestmark = pytest.mark.browser

MAP = "figure-sensitivity-map-0"
VERDICT = re.compile("|".join(KIND_WORDS.values()), re.IGNORECASE)


def go(page, group: str, name: str) -> None:
    """Another page by the navigation, as a person goes."""
    page.get_by_text(group, exact=True).first.click()
    page.get_by_role("menuitem", name=name, exact=True).click()
    wanted = page.get_by_role("heading", level=1)
    wanted.filter(has_text=re.compile(f"{name}|{group}", re.IGNORECASE)).wait_for()
    idle(page)


def transfer(steps: int, arms: tuple[str, ...], **more: str | int) -> str:
    """The address of a transfer that is small enough for a test."""
    given = {"recipe": "quick", "device": "cpu", "steps": steps, "samples": 32, "seeds": 1} | more
    words = [f"{name}={value}" for name, value in given.items()]
    return "/transfer?" + "&".join([*words, *(f"arms={arm}" for arm in arms)])


def start(page) -> api.Run:
    """Starts the transfer that the page shows."""
    idle(page)
    page.get_by_role("button", name="Start the transfer").click()
    page.wait_for_url(re.compile(r"run=\d{8}-\d{6}-"))
    return api.open_run(re.search(r"run=([\w-]+)", page.url)[1])


def answer_of(page, place: int):
    """The text that one of the speakers gave."""
    return page.locator(f".st-key-playground-{place}-answer [data-testid=stCode]").first


def test_class_finds_moves_and_judges_a_skill_in_five_minutes(open_context, shoot):
    page, _ = open_context()
    page.goto("/?device=cpu")
    page.get_by_text("First visit?").wait_for()
    page.locator(".st-key-figure-home-map .js-plotly-plot").wait_for()
    page.get_by_role("button", name="See a result").click()
    page.wait_for_url(re.compile(r"/results\?.*run="))
    page.get_by_role("heading", name=re.compile("^lexicon helps")).wait_for()
    shoot(page, "class-result")
    page.goto("/?device=cpu")
    page.get_by_role("button", name="Use this pair").first.click()

    go(page, "Explore", "Sensitivity")
    page.locator(f".st-key-{MAP} .js-plotly-plot").wait_for()  # it ships: nobody measures
    click_cell(page, MAP, "model.layers.2.mlp.up_proj")
    page.get_by_text(re.compile(r"^model\.layers\.2\.mlp\.up_proj · rows")).wait_for()
    before = page.evaluate(_NUMBERS, MAP)
    page.get_by_role("combobox", name=re.compile("Task")).click()
    page.get_by_role("option", name="add", exact=True).click()
    page.get_by_text(re.compile(r" · add, teacher")).first.wait_for()
    idle(page)
    assert page.evaluate(_NUMBERS, MAP) != before

    go(page, "Learn", "Chapters")
    page.get_by_text("hardly any", exact=True).click()  # the guess, before the answer
    page.get_by_text("Reveal", exact=True).click()
    page.get_by_text(re.compile(r"^Measured: ")).wait_for()
    shoot(page, "class-learn")

    page.goto(transfer(40, ("vanilla", "plain", "paper", "permuted"), task="reverse"))
    run = start(page)
    page.get_by_role("button", name="Open Results").click(timeout=WORK_MS)
    page.wait_for_url(re.compile("/results"))
    page.locator(".st-key-verdict").get_by_text(VERDICT).first.wait_for()
    idle(page)
    assert page.get_by_test_id("stPlotlyChart").count() >= 2  # arms, curves
    shoot(page, "class-verdict")

    page.goto(f"/playground?device=cpu&run={run.id}&speakers=teacher&speakers=student"
              "&speakers=paper%20(seed%200)&prompt=reverse%20k%20c%20t%20a")  # fmt: skip
    idle(page)
    page.get_by_role("button", name=re.compile("^Ask")).click()
    page.get_by_text(re.compile(r"^\d+ tokens, ")).nth(2).wait_for(timeout=WORK_MS)
    assert answer_of(page, 0).inner_text().strip() == "a t c k"  # the teacher knows it
    assert answer_of(page, 1).inner_text().strip() != "a t c k"  # the student lacks it
    page.get_by_role("button", name="Free memory").click()
    until(lambda: not api.playground.state().alive)


_NUMBERS = (
    "key => JSON.stringify(document.querySelector(`.st-key-${key} .js-plotly-plot`).data[0].z)"
)


@pytest.mark.slow
def test_researcher_loses_window_server_and_worker_and_gets_the_same_result(
    server, open_context, shoot
):
    page, _ = open_context()
    small = transfer(60, ("plain", "paper"), task="reverse")
    page.goto(small)
    run = start(page)
    worker = server.worker(run.id)
    until(lambda: any(event.data.get("step") for event in run.events()))
    os.kill(
        worker, signal.SIGSTOP
    )  # half-way, however fast the machine is; a stopped worker is a living one
    assert run.record().stage == "train"
    page.get_by_text(re.compile(r"^Stage: train")).wait_for()
    shoot(page, "researcher-running")

    page.reload()
    page.get_by_text(re.compile(r"^Stage: train")).wait_for()
    address = page.url
    page.goto("about:blank")
    server.stop()
    server.start()
    page.goto(address)
    page.get_by_text(re.compile(r"^Stage: train")).wait_for()
    page.get_by_role("button", name="Cancel", exact=True).wait_for()

    os.kill(worker, signal.SIGKILL)
    page.get_by_role("button", name="Resume", exact=True).click()
    page.get_by_role("button", name="Open Results").wait_for(timeout=WORK_MS)
    assert run.record().attempts == 2

    page.goto(small)
    undisturbed = start(page)
    page.get_by_role("button", name="Open Results").wait_for(timeout=WORK_MS)
    for one, other in zip(api.cells(run), api.cells(undisturbed), strict=True):
        assert (one.arm, one.seed, one.outcomes) == (other.arm, other.seed, other.outcomes)
        assert api.answers(run, one.arm, one.seed) == api.answers(undisturbed, one.arm, one.seed)

    page.goto(f"/runs?run={run.id}&with={undisturbed.id}")
    page.get_by_role("tab", name="Compare").click()
    page.get_by_text("The recipes are the same.").wait_for()
    shoot(page, "researcher-compared")
    page.get_by_role("tab", name="Overview").click()
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    until(lambda: [left.id for left in api.runs()] == [undisturbed.id])


@pytest.fixture
def own_samples(tmp_path: Path) -> Path:
    """Forty letters to double, in words that the built-in models have."""
    letters = "bcdfghjklmnprstvwxz"
    pairs = [(a, b) for a in letters for b in letters if a != b][:40]
    file = tmp_path / "doubled.jsonl"
    lines = [{"prompt": f"copy {a} {b}", "completion": f"{a} {b} {a}"} for a, b in pairs]
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return file


@pytest.mark.slow
def test_engineer_brings_samples_and_leaves_with_an_adapter(
    open_context, own_samples, tmp_path, shoot
):
    page, _ = open_context()
    page.goto("/sensitivity?device=cpu")
    page.get_by_role("button", name="Other samples").click()
    page.locator("input[type=file]").first.set_input_files(own_samples)
    page.get_by_text(re.compile("^40 samples")).wait_for()
    page.get_by_role("button", name="Use this dataset", exact=True).click()
    page.get_by_text(
        "How strongly the loss on doubled depends on each weight of teacher"
    ).wait_for()
    idle(page)
    page.get_by_role("button", name="Measure", exact=True).click()
    page.locator(f".st-key-{MAP} .js-plotly-plot").wait_for(timeout=WORK_MS)
    page.get_by_text(re.compile("doubled, teacher")).first.wait_for()
    shoot(page, "engineer-map")

    page.goto(transfer(20, ("plain", "paper"), task="doubled"))
    idle(page)
    page.get_by_text("The exact prompt, and the part that enters the loss").click()
    page.get_by_role("button", name="Show the prompt").click()
    page.get_by_text(re.compile(r"^In the loss: \d+ tokens")).wait_for(timeout=WORK_MS)
    page.get_by_text("<|user|>").first.wait_for()
    run = start(page)
    page.get_by_role("button", name="Open Results").click(timeout=WORK_MS)
    page.locator(".st-key-verdict").get_by_text(VERDICT).first.wait_for()
    shoot(page, "engineer-verdict")

    page.goto(f"/runs?run={run.id}")
    page.get_by_role("tab", name="Export").click()
    folder = page.get_by_role("textbox", name="New folder")
    folder.fill(str(tmp_path / "adapter"))
    folder.press("Enter")
    idle(page)
    page.get_by_role("button", name="Export the PEFT adapter").click()
    page.get_by_text("Written", exact=True).wait_for()
    made = {file.name for file in (tmp_path / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= made
