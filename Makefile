# One verb per check; CI calls the same verbs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test setup check format lint types layers docs clean

run: setup  ## the main job on synthetic aerial scenes: trains, breaks, recovers, reports
	$(BIN)/segwatch demo

test: setup  ## all tests
	$(BIN)/pytest

setup: $(STAMP)  ## the installing alone

# Again only when these files change. Torch first, from the constraints: no resolver may pick another build.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "segwatch needs Python 3.11 or newer; set PYTHON=... to one")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

check: setup format lint types layers test  ## everything that CI asks

format: setup
	$(BIN)/ruff format --check .

lint: setup
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

layers: setup
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

docs: setup  ## docs/configuration.md from the models
	$(BIN)/python -m segwatch.daemon.reference > docs/configuration.md
