PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test test-faults test-slow test-browser test-load check lint bench bench-search gpu up clean

demo: $(STAMP)        ## set everything up and run a search on handwritten digits
	$(BIN)/python -m service.demo

test: $(STAMP)        ## set everything up and run the tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -m "not e2e and not slow"
	$(BIN)/python -m pytest tests/e2e
	$(BIN)/python -m pytest tests/faults

test-faults: $(STAMP) ## every row of the fault table, and twenty faults drawn at random
	RUNG_TEST_FAULTS=all $(BIN)/python -m pytest tests/faults -m e2e -s

test-slow: $(STAMP)   ## the tests that compute for long: the rehearsal of `make gpu`, compiled networks
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -m slow

test-browser: $(STAMP) ## MLflow's pages in Chromium (docs/mlflow.md); skipped where there is no Chromium
	$(BIN)/python -m pytest tests/browser --override-ini addopts=--import-mode=importlib -s

test-load: $(STAMP)   ## sixty hostile clients for two minutes (docs/security.md)
	$(BIN)/python -m pytest tests/load --override-ini addopts=--import-mode=importlib -s

check: $(STAMP) lint test   ## what must pass before a commit

lint: $(STAMP)        ## format, style, types and imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)       ## the measurements of docs/benchmarks.md
	$(BIN)/python -m pytest tests/benchmarks --override-ini addopts=--import-mode=importlib -s

bench-search: $(STAMP) ## replay of learning curves: `make bench-search DATA=DIR` (docs/benchmarks.md)
	$(BIN)/python -m tests.benchmarks.search_quality --data $(DATA)

# `make gpu PYTHON=python3.12` uses an interpreter that has torch, torchvision, pydantic, pyyaml, numpy, scikit-learn,
# pillow and pytest; without PYTHON, the project's own environment.
ifeq ($(origin PYTHON),file)
gpu: $(STAMP)         ## check and measure training on a GPU (docs/benchmarks.md)
	$(BIN)/python -m tests.gpu
else
gpu:
	$(PYTHON) -m tests.gpu
endif

up: $(STAMP)          ## start the embedded stack
	$(BIN)/rung up

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
