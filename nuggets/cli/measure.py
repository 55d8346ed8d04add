"""Commands that look at models, from doctor to extract and cut."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nuggets import api
from nuggets.amounts import duration, extent, size
from nuggets.cli import options as o
from nuggets.cli import scores
from nuggets.cli.output import bars, print_json, say, table
from nuggets.extraction.window_request import SearchedSelector

Out = Annotated[Path, typer.Option(help="A new folder; nothing is ever overwritten.")]


def doctor(json: o.AsJson = False) -> None:
    """Show versions, devices and free memory."""
    found = api.doctor(refresh=True)
    if json:
        return print_json(found)
    table(("package", "version"), found.versions.items())
    rows = [
        (d.name, d.label, f"{size(d.memory_free)} of {size(d.memory_total)} free")
        for d in found.devices
    ]
    table(("device", "is", "memory"), rows, "`auto` is the first one")
    return say(f"Runs and caches are stored in {found.home}.")


def pairs(
    measure: Annotated[bool, typer.Option(help="Measure all skills for the app first.")] = False,
    json: o.AsJson = False,
) -> None:
    """List the built-in models and their skills."""
    cards = {name: api.model_card(name) for name in api.MODELS}
    if measure:
        with bars() as progress:
            api.measure_builtin(progress)
    if json:
        return print_json({name: card.model_dump(mode="json") for name, card in cards.items()})
    skills = dict.fromkeys(skill for card in cards.values() for skill in card.scores)
    rows = [(name, *(f"{card.scores[name]:.2f}" for card in cards.values())) for name in skills]
    weights = ("weights", *(f"{card.parameters:,}" for card in cards.values()))
    return table(("skill", *cards), [*rows, weights], "exact match on unseen items")


def preflight(
    teacher: str,
    student: str,
    roles: Annotated[str, typer.Option(help="Matrices, such as q,k,embed.")] = "",
    recipe: Annotated[str, typer.Option(help="How much is to be done: a recipe.")] = "",
    device: o.Device = "auto",
    json: o.AsJson = False,
) -> None:
    """Check what will work and what it needs, without loading it."""
    wanted = tuple(role for role in roles.split(",") if role)
    asked = api.load_recipe(recipe) if recipe else None
    found = api.preflight(
        o.absolute(teacher), o.absolute(student), wanted, device=device, recipe=asked
    )
    if json:
        print_json(found)
    else:
        show_preflight(found)
    if not found.ok:
        raise typer.Exit(2)


def show_preflight(found: api.Preflight) -> None:
    """Draws the two models side by side, what each stage needs, and what is wrong."""
    rows = [(d.name, d.teacher, d.student, _yes(d.fits)) for d in found.dimensions]
    if rows:
        table(("dimension", "teacher", "student", "fits"), rows, f"words {found.vocabularies}")
    roles = [
        (r.role, _shape(r.teacher_shape), _shape(r.student_shape), r.reason or _yes(r.fits))
        for r in found.roles
    ]
    if roles:
        table(("matrix", "teacher", "student", "can be extracted"), roles)
    stages = [
        (
            s.stage,
            size(s.bytes_needed),
            size(s.disk_needed),
            duration(s.seconds),
            _yes(s.fits),
        )
        for s in found.stages
    ]
    if stages and found.machine and found.work:
        here, work = found.machine, found.work
        title = (
            f"{here.device}: {size(here.memory_free)} of memory, {size(here.disk_free)} of disk; "
            f"{work.n_seed_samples} seed samples, {work.trainings} × {work.steps} steps of "
            f"{work.batch_size}, {work.n_test} test samples, each of {work.tokens} tokens"
        )
        table(("stage", "memory", "disk", "time, about", "fits"), stages, title)
    for sentence in (*found.notes, *found.problems):
        say(sentence)
    if found.ok:
        say("This pair works.")


def _shape(shape: tuple[int, int] | None) -> str:
    return "none" if shape is None else f"{shape[0]} × {shape[1]}"


def _yes(fits: bool) -> str:
    return "yes" if fits else "no"


def sensitivity(
    model: str,
    out: Out,
    task: o.Task = None,
    seed_samples: o.SeedSamples = None,
    data: o.Data = None,
    n: Annotated[int, typer.Option(help="Seed samples used.")] = 32,
    score: scores.Kind = "theta_grad",
    against: scores.Against = "",
    keep: Annotated[
        str, typer.Option(help="full, windows for a --student, or sums of rows and columns.")
    ] = "full",
    student: Annotated[
        str | None, typer.Option(help="Whose shapes the windows of --keep windows have.")
    ] = None,
    selectors: Annotated[
        str, typer.Option(help=f"Which choose those, with commas. {o.one_of(SearchedSelector)}")
    ] = "window",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    format: o.Format = "paper",
    device: o.Device = "auto",
    json: o.AsJson = False,
) -> None:
    """Measure where a model keeps a skill: Σ |θ·g| per parameter."""
    tree = {
        "job": "sensitivity",
        "model": o.absolute(model),
        "data": {**o.source_of(task, seed_samples, data), "n_seed_samples": n, "format": format},
        "sensitivity": {"score": scores.score_of(score, against), "keep": keep, "dtype": dtype},
        "student": None if student is None else o.absolute(student),
        "selectors": [{"kind": kind.strip()} for kind in selectors.split(",")],
        "device": device,
    }
    job = api.parse_job(tree)
    api.refuse_existing(out)
    with bars() as progress:
        map = api.measure(job, progress)
        api.save_map(map, out)
    layers = map.layer_scores
    if json:
        return print_json(
            {
                "out": str(out),
                "n_samples": map.n_samples,
                "score": map.score,
                "layers": layers.tolist(),
                "modules": {name: map.total(name) for name in map.rows},
                "meta": dict(map.meta),
            }
        )
    share = layers / layers.sum()
    rows = [(f"L{i}", f"{score:.4g}", f"{share[i]:.1%}") for i, score in enumerate(layers)]
    table(("layer", "sensitivity", "share"), rows, f"{map.n_samples} seed samples")
    return say(f"Wrote {out}.")


def align(
    teacher: str,
    student: str,
    task: o.Task = None,
    data: o.Data = None,
    n_fit: Annotated[int, typer.Option(help="Samples per task that maps are fitted on.")] = 64,
    n_test: Annotated[int, typer.Option(help="Samples per task that they are tested on.")] = 32,
    stitch: Annotated[bool, typer.Option(help="Measure stitching, the longest part.")] = True,
    out: Annotated[Path | None, typer.Option(help="A new folder for the matrices.")] = None,
    device: o.Device = "auto",
    json: o.AsJson = False,
) -> None:
    """Measure how similar the layers of two models are."""
    source = o.source_of(task, None, data)
    job = api.parse_job(
        {
            "job": "align",
            "teacher": o.absolute(teacher),
            "student": o.absolute(student),
            "tasks": [task] if task else [],
            # Sensitivities are measured on as many samples as maps are fitted on, at most 32.
            "data": source | {"n_seed_samples": min(n_fit, 32)} if data else None,
            "n_fit": n_fit,
            "n_test": n_test,
            "stitch": stitch,
            "device": device,
        }
    )
    if out is not None:
        api.refuse_existing(out)
    with bars() as progress:
        report = api.align(job, progress)
    if out is not None:
        api.save_alignment(report, out)
    if json:
        return print_json({"skills": report.skills, "matrices": report.tables(), **report.meta})
    for name, matrix in report.matrices.items():
        headers = ("teacher", *(f"student {j}" for j in range(matrix.shape[1])))
        rows = [(i, *(f"{x:.2f}" for x in row)) for i, row in enumerate(matrix)]
        table(headers, rows, name)
    return None


def probe(
    teacher: str,
    student: str,
    task: o.Task = None,
    data: o.Data = None,
    n_fit: Annotated[int, typer.Option(help="Questions that the probe is fitted on.")] = 80,
    n_test: Annotated[int, typer.Option(help="Questions that it is asked.")] = 80,
    format: o.Format = "paper",
    device: o.Device = "auto",
    json: o.AsJson = False,
) -> None:
    """Measure which answers can be read off single words, before training."""
    source = o.source_of(task, None, data) | {"n_train": n_fit, "n_test": n_test}
    with bars() as progress:
        found = api.probe(
            o.absolute(teacher), o.absolute(student), source | {"format": format}, device, progress
        )
    if json:
        return print_json(found)
    depth = max(len(layers) for layers in found.models.values())
    rows = [
        (
            "embedding" if layer == 0 else f"after block {layer - 1}",
            *(_accuracy(layers, layer) for layers in found.models.values()),
        )
        for layer in range(depth)
    ]
    title = f"{found.n_test} questions, fitted on {found.n_fit} others; chance {found.chance:.2f}"
    return table(("word vector", *found.models), rows, title)


def _accuracy(layers: tuple[Any, ...], layer: int) -> str:
    if layer >= len(layers):
        return ""
    return f"{layers[layer].mean:.2f} [{layers[layer].low:.2f}, {layers[layer].high:.2f}]"


def plan(asked: o.RecipeOptions, json: o.AsJson = False) -> None:
    """Show what a recipe would extract: layers, windows, mass kept."""
    recipe = asked.load()
    with bars() as progress:
        made = api.measured_plan(recipe, progress)
    if json:
        return print_json(made)
    show_plan(made)
    found = api.detectable(recipe)
    return say(f"{found.sentence} {found.basis}")


def show_plan(made: api.ExtractionPlan) -> None:
    """Draws a plan."""
    rows = [
        (
            _matrix(item.role, item.student_layer),
            _matrix(item.role, item.teacher_layer),
            extent(item.rows),
            extent(item.cols),
            f"{item.kept_mass:.3f}",
            f"{item.kept_mass / item.area:.2f}×",
            item.rank,
        )
        for item in made.items
    ]
    headers = ("student", "teacher", "rows", "columns", "mass kept", "gain", "rank")
    table(headers, rows, "layers " + ", ".join(f"{t} → {s}" for s, t in made.alignment.pairs))
    if made.residual_agreement is not None:
        say(f"Adjacent matrices share {made.residual_agreement:.0%} of residual dimensions.")
    say(f"{made.trainable_parameters:,} trainable parameters.")
    for note in made.notes:
        say(note)


def _matrix(role: str, layer: int | None) -> str:
    """What tells matrices of one model apart: `L0.q`, `embed`; JSON has the modules' names."""
    return role if layer is None else f"L{layer}.{role}"


def extract(asked: o.RecipeOptions, out: Out, json: o.AsJson = False) -> None:
    """Write plan.json and the initial factors as a PEFT adapter."""
    recipe = asked.load()
    with bars() as progress:
        made = api.extract(recipe, out, progress)
    if json:
        return print_json({"out": str(out), "plan": made.model_dump(mode="json")})
    show_plan(made)
    return say(f"Wrote {out}/plan.json and the factors in {out}/adapter_model.safetensors.")


def cut(
    teacher: str,
    out: Out,
    like: Annotated[str | None, typer.Option(help="A model whose sizes to take.")] = None,
    layers: Annotated[int | None, typer.Option(help="Layers to keep.")] = None,
    width: Annotated[int | None, typer.Option(help="Residual dimensions to keep.")] = None,
    ffn: Annotated[int | None, typer.Option(help="FFN neurons to keep per layer.")] = None,
    kv_heads: Annotated[int | None, typer.Option(help="Key/value head groups to keep.")] = None,
    order: Annotated[str, typer.Option(help="sensitivity, first, random or permuted.")] = (
        "sensitivity"
    ),
    score: scores.Kind = "theta_grad",
    against: scores.Against = "",
    task: o.Task = None,
    seed_samples: o.SeedSamples = None,
    data: o.Data = None,
    heal: Annotated[
        str | None,
        typer.Option(help="JSONL or org/name:split to heal on; only built-in models go without."),
    ] = None,
    heal_steps: Annotated[int, typer.Option(help="0 leaves the cut as it is.")] = 0,
    heal_batch_size: Annotated[int, typer.Option(help="Samples per healing step.")] = 16,
    heal_lr: Annotated[float, typer.Option(help="Peak learning rate of the healing.")] = 1e-3,
    seed: int = 0,
    device: o.Device = "auto",
    json: o.AsJson = False,
) -> None:
    """Prune a student from a teacher and fine-tune it to recover."""
    api.refuse_existing(out)
    sizes = {
        "n_layers": layers,
        "hidden_size": width,
        "intermediate_size": ffn,
        "n_kv_heads": kv_heads,
    }
    job = api.parse_cut(
        {
            "teacher": o.absolute(teacher),
            "like": None if like is None else o.absolute(like),
            "sizes": {name: size for name, size in sizes.items() if size is not None},
            "order": order,
            "score": scores.score_of(score, against),
            "data": o.source_of(task, seed_samples, data),
            "heal": o.source(heal),
            "heal_steps": heal_steps,
            "heal_lr": heal_lr,
            "heal_batch_size": heal_batch_size,
            "seed": seed,
            "device": device,
        }
    )
    with bars() as progress:
        card: dict[str, Any] = api.cut(job, out, progress)
    return print_json(card) if json else say(f"Wrote {out}: {card['parameters']:,} parameters.")


def convert(source: Path, out: Out, json: o.AsJson = False) -> None:
    """Convert pickled weights to safetensors without running code."""
    card = api.convert(source, out)
    return print_json(card) if json else say(f"Wrote {out}: {card['tensors']} tensors.")
