"""A worker's work for tests of pages: tells a little; a run called `slow` waits to be cancelled."""

from __future__ import annotations

import time


def execute(run, ctx):
    ctx.plan(("load", "train"))
    ctx.stage("load")
    ctx.log(f"{run.record().name} begins")
    ctx.stage("train")
    for step in range(1, 4):
        ctx.metric(arm="plain", seed=0, step=step * 10, loss=1.0 / step)
    ctx.progress(1, 2, "plain, seed 0")
    while run.record().name == "slow":
        ctx.check_cancelled()
        time.sleep(0.05)
    ctx.progress(2, 2, "all arms")
