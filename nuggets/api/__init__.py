"""The façade: everything that pages, the command line and notebooks call.

Importing this module is light: nothing here imports torch. Functions that compute with models
either run in a worker process (`start`, `resume`) or say that they import torch and run here.
"""

from __future__ import annotations

from nuggets.api._measuring import (
    align,
    cut,
    extract,
    find_alignment,
    find_map,
    measure,
    measure_builtin,
    measured_plan,
    plan,
    save_alignment,
    save_map,
)
from nuggets.api._models import asks_hub, doctor, locate, preflight, skills, spec
from nuggets.api._running import (
    AnyJob,
    cancel,
    delete,
    export,
    job_of,
    open_run,
    resume,
    runs,
    start,
)
from nuggets.bench.calibration import Calibration
from nuggets.bench.outcomes import BenchmarkTable
from nuggets.bench.power import DetectableEffect, detectable_effect
from nuggets.bench.report import ArmReport, BenchmarkReport, CellOutcome
from nuggets.bench.verdict import RULES
from nuggets.builtin.pairs import MODELS, PAIRS, ModelCard, model_card
from nuggets.builtin.skills import Skill
from nuggets.core import views
from nuggets.core.alignment import AlignmentReport
from nuggets.core.architecture import ROLES, ArchSpec
from nuggets.core.maps import SensitivityMap
from nuggets.core.plan import ExtractionPlan
from nuggets.core.preflight import ModelFacts, Preflight
from nuggets.recipe import (
    AlignJob,
    CutJob,
    DataConfig,
    EvaluateJob,
    SensitivityJob,
    TransferRecipe,
    dump_job,
    load_job,
    parse_cut,
    parse_job,
    parse_recipe,
    shipped_recipes,
)
from nuggets.runs import bundles, playground, tour
from nuggets.runs.checks import detectable, eval_extra_missing, refusals
from nuggets.runs.commands import as_command, as_python
from nuggets.runs.converting import convert
from nuggets.runs.creating import create
from nuggets.runs.doctor import Doctor, diagnose_soon
from nuggets.runs.exporting import export_benchmarks as save_benchmarks
from nuggets.runs.factors import Factors, KeptBySvd, kept_by_svd, window_factors
from nuggets.runs.home import exports_dir
from nuggets.runs.outlook import Outlook, look_ahead
from nuggets.runs.outputs import refuse_existing
from nuggets.runs.own_data import name_of, own_data, remember, save_upload
from nuggets.runs.own_recipes import (
    compare_recipes,
    delete_recipe,
    load_recipe,
    own_recipes,
    save_recipe,
)
from nuggets.runs.planning import alignment_job, map_job
from nuggets.runs.prompts import Rendered, rendered, rendered_apart
from nuggets.runs.results import (
    answers,
    benchmark_tables,
    cells,
    compare,
    map_of,
    plan_of,
    report,
)
from nuggets.runs.schema import LIVE, RESUMABLE, RunEvent, RunStatus
from nuggets.runs.store import Run
from nuggets.studies import lessons
from nuggets.studies.calibrating import calibration, save_calibration
from nuggets.studies.documents import (
    published_report,
    save_study,
    study_html,
    study_markdown,
    study_report,
)
from nuggets.studies.figure import study_svg
from nuggets.studies.making import calibration_run, run_study, start_study
from nuggets.studies.report import StudyReport
from nuggets.studies.schema import Study
from nuggets.studies.shipped import open_study, studies, study_recipes
from nuggets.worker import run_job as run

__all__ = [
    "LIVE",
    "MODELS",
    "PAIRS",
    "RESUMABLE",
    "ROLES",
    "RULES",
    "AlignJob",
    "AlignmentReport",
    "AnyJob",
    "ArchSpec",
    "ArmReport",
    "BenchmarkReport",
    "BenchmarkTable",
    "Calibration",
    "CellOutcome",
    "CutJob",
    "DataConfig",
    "DetectableEffect",
    "Doctor",
    "EvaluateJob",
    "ExtractionPlan",
    "Factors",
    "KeptBySvd",
    "ModelCard",
    "ModelFacts",
    "Outlook",
    "Preflight",
    "Rendered",
    "Run",
    "RunEvent",
    "RunStatus",
    "SensitivityJob",
    "SensitivityMap",
    "Skill",
    "Study",
    "StudyReport",
    "TransferRecipe",
    "align",
    "alignment_job",
    "answers",
    "as_command",
    "as_python",
    "asks_hub",
    "benchmark_tables",
    "bundles",
    "calibration",
    "calibration_run",
    "cancel",
    "cells",
    "compare",
    "compare_recipes",
    "convert",
    "create",
    "cut",
    "delete",
    "delete_recipe",
    "detectable",
    "detectable_effect",
    "diagnose_soon",
    "doctor",
    "dump_job",
    "eval_extra_missing",
    "export",
    "exports_dir",
    "extract",
    "find_alignment",
    "find_map",
    "job_of",
    "kept_by_svd",
    "lessons",
    "load_job",
    "load_recipe",
    "locate",
    "look_ahead",
    "map_job",
    "map_of",
    "measure",
    "measure_builtin",
    "measured_plan",
    "model_card",
    "name_of",
    "open_run",
    "open_study",
    "own_data",
    "own_recipes",
    "parse_cut",
    "parse_job",
    "parse_recipe",
    "plan",
    "plan_of",
    "playground",
    "preflight",
    "published_report",
    "refusals",
    "refuse_existing",
    "remember",
    "rendered",
    "rendered_apart",
    "report",
    "resume",
    "run",
    "run_study",
    "runs",
    "save_alignment",
    "save_benchmarks",
    "save_calibration",
    "save_map",
    "save_recipe",
    "save_study",
    "save_upload",
    "shipped_recipes",
    "skills",
    "spec",
    "start",
    "start_study",
    "studies",
    "study_html",
    "study_markdown",
    "study_recipes",
    "study_report",
    "study_svg",
    "tour",
    "views",
    "window_factors",
]
