"""The app on the dimensions of Llama-2-13B and 7B: 40 layers × 9 modules, one matrix whole.

Nothing of the size of such models is written: their configurations, the sums of a map drawn by
chance, and the entries of one matrix.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from nuggets.models.architecture import ArchSpec
from nuggets.sensitivity.maps import SensitivityMap

ROOT = Path(__file__).parents[1]
TEACHER = {
    "model_type": "llama",
    "num_hidden_layers": 40,
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}
STUDENT = TEACHER | {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
WHOLE = "model.layers.20.mlp.down_proj"
"""The matrix that is kept entry by entry."""
_MAP = "figure-sensitivity-map-0"
_PLACE = """([key, module]) => {
  const plot = document.querySelector(`.st-key-${key} .js-plotly-plot`);
  const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect();
  const cells = plot.data.find(trace => trace.customdata);
  const i = cells.customdata.indexOf(module);
  return [box.left + xaxis._offset + xaxis.d2p(cells.x[i]),
          box.top + yaxis._offset + yaxis.d2p(cells.y[i])];
}"""
Serve = Callable[[Path, Path], AbstractContextManager[tuple[str, Any]]]
Timed = Callable[[Any, Any, Callable[[], Any]], tuple[float, ...]]


def measure(open_window: Callable[[], Any], serve: Serve, timed: Timed) -> dict[str, Any]:
    """Seconds on the clock and of the server's processor: another scale, a matrix, a part of it."""
    with tempfile.TemporaryDirectory() as folder:
        home, teacher, student = (Path(folder) / name for name in ("home", "13b", "7b"))
        _write_model(teacher, TEACHER)
        _write_model(student, STUDENT)
        _write_map(home, teacher)
        with serve(ROOT, home) as (url, server), open_window() as window:
            address = f"{url}/sensitivity?task=add&device=cpu&mode=share&teacher={teacher}"
            address += f"&student={student}"
            timed(window, server, lambda: window.goto(address))
            steps = {
                "40 layers × 9 modules: logarithmic": lambda: window.get_by_role(
                    "radio", name="log", exact=True
                ).click(),
                "5,120 × 13,824: cell clicked, read, binned, window": lambda: _click(window),
                "5,120 × 13,824: blocks: max": lambda: window.get_by_role(
                    "radio", name="max", exact=True
                ).click(),
            }
            return {name: timed(window, server, step)[1:] for name, step in steps.items()}


def _click(window: Any) -> None:
    """A real click on the matrix's cell of the map."""
    window.locator(f".st-key-{_MAP}").scroll_into_view_if_needed()
    window.mouse.click(*window.evaluate(_PLACE, [_MAP, WHOLE]))


def _write_model(folder: Path, config: dict[str, Any]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"stand.in": np.zeros(1, np.float32)}, folder / "model.safetensors")


def _write_map(home: Path, model: Path) -> None:
    """A map where the app looks for that of the task `add`."""
    from nuggets import api
    from nuggets.planning import cache

    before = os.environ.get("NUGGETS_HOME")
    os.environ["NUGGETS_HOME"] = str(home)
    try:
        job = api.SensitivityJob(model=str(model), data=api.DataConfig(task="add"), device="cpu")
        folder = cache.MapRequest.of(job).folder
        api.save_map(_map(api.spec(job.model), folder.name), folder)
    finally:
        os.environ.pop("NUGGETS_HOME")
        if before is not None:
            os.environ["NUGGETS_HOME"] = before


def _map(spec: ArchSpec, digest: str) -> SensitivityMap:
    rng = np.random.default_rng(0)
    rows = {module: rng.gamma(0.5, size=spec.shape(role)[0]) for module, role, _ in spec.modules()}
    cols = {module: rng.gamma(0.5, size=spec.shape(role)[1]) for module, role, _ in spec.modules()}
    matrix = rng.random((len(rows[WHOLE]), len(cols[WHOLE])), dtype=np.float32) ** 4
    rows[WHOLE] = matrix.sum(axis=1, dtype=np.float64)
    cols[WHOLE] = matrix.sum(axis=0, dtype=np.float64)
    totals = np.stack([values.sum() * rng.dirichlet(np.ones(32)) for values in rows.values()], 1)
    names = tuple(f"{module}.weight" for module in rows)
    meta = {"model": "13b", "digest": digest, "label": "add"}
    return SensitivityMap(spec, "theta_grad", rows, cols, {WHOLE: matrix}, names, totals, meta)
