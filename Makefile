PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed
PEERS := .venv-peers
# Without bytecode, each process that the tests and the service start compiles torch, Ray and MLflow again (24 s of CPU time).
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-faults test-slow test-browser test-load test-cluster check lint
.PHONY: bench bench-search bench-search-peers bench-sharing gpu up clean

demo: $(STAMP)        ## set everything up and run a search on handwritten digits
	$(BIN)/python -m service.demo

test: $(STAMP)        ## set everything up and run the tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -m "not e2e and not slow"
	$(BIN)/python -m pytest tests/e2e
	$(BIN)/python -m pytest tests/faults

test-faults: $(STAMP) ## every row of the fault table, and twenty faults drawn at random
	RUNG_TEST_FAULTS=all $(BIN)/python -m pytest tests/faults -m e2e -s

test-slow: $(STAMP)   ## the tests that take long: searches on a whole stack, most tests over PostgreSQL, compiled networks
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -m "slow and not e2e"
	$(BIN)/python -m pytest tests/e2e -m slow

test-browser: $(STAMP) ## MLflow's pages in Chromium (docs/mlflow.md); skipped where there is no Chromium
	$(BIN)/python -m pytest tests/browser --override-ini addopts=--import-mode=importlib -s

test-load: $(STAMP)   ## sixty hostile clients for two minutes (docs/security.md)
	$(BIN)/python -m pytest tests/load --override-ini addopts=--import-mode=importlib -s

test-cluster: $(STAMP) ## Ray's autoscaler, and searches on several hosts that fail (docs/operating.md)
	$(BIN)/python -m pytest tests/cluster --override-ini addopts=--import-mode=importlib -s

check: $(STAMP) lint test   ## what must pass before a commit

lint: $(STAMP)        ## format, style, types and imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)       ## the measurements of docs/benchmarks.md
	$(BIN)/python -m pytest tests/benchmarks --override-ini addopts=--import-mode=importlib -s

# DATA: the folder of LCBench's surrogate; without it, the tasks of Rung's own tables. ARGS: see `--help`.
bench-search: $(STAMP) ## replay of learning curves: `make bench-search DATA=DIR` (docs/benchmarks.md)
	$(BIN)/python -m tests.benchmarks.search_quality $(if $(DATA),--data $(DATA),--tasks digits-cnn fashion-cnn) $(ARGS)

bench-search-peers: $(PEERS)/.installed ## the same, with Syne Tune's searchers: ARGS='--methods syne-asha ...'
	$(PEERS)/bin/python -m tests.benchmarks.search_quality $(if $(DATA),--data $(DATA),--tasks digits-cnn fashion-cnn) $(ARGS)

# Syne Tune needs an older numpy, so it has an environment of its own over the project's.
$(PEERS)/.installed: $(STAMP) tests/benchmarks/search_quality/peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > $$($(PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth
	$(PEERS)/bin/python -m pip install --quiet -r tests/benchmarks/search_quality/peers.txt
	touch $(PEERS)/.installed

bench-sharing: $(STAMP) ## thirty days of three teams on one cluster, simulated (docs/teams.md)
	$(BIN)/python -m tests.benchmarks.fair_share $(ARGS)

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
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf .venv .venv-peers build *.egg-info .mypy_cache .ruff_cache .pytest_cache
