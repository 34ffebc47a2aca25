# One verb per check; CI calls the same verbs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test long setup check format lint types layers docs pictures tour fault faults soak bench bench-recovery clean

run: setup  ## the main job on synthetic aerial scenes: trains, breaks, recovers, reports
	$(BIN)/segwatch demo

# A file's tests stay in one process: many share what it has trained. Most wait for processes more than they compute, so
# that there may be more of them than cores; those that measure time have the machine to themselves afterwards.
JOBS ?= 3
test: setup  ## all tests but the long ones
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not alone and not long"
	$(BIN)/pytest -m alone

# Real trainings from end to end, each of a case that a shorter test shows as well: one for each remedy, stops, foreign files.
long: setup  ## the long tests: some minutes
	$(BIN)/pytest -n $(JOBS) --dist loadfile -m long

setup: $(STAMP)  ## the installing alone

# Again only when these files change. Torch first, from the constraints: no resolver may pick another build.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "segwatch needs Python 3.11 or newer; set PYTHON=... to one")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

check: setup format lint types layers test  ## what is asked of every commit; CI asks for the long tests too

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

RUN ?=
pictures: setup  ## docs/pictures from a demo, with Chromium: some minutes. Or from a finished one: RUN=segwatch-demo/runs/demo-1
	$(BIN)/python -m tests.pictures $(RUN)

tour: setup  ## docs/tour.md: a newcomer's way on the real tiles of ../shared, screen by screen: a minute or two
	$(BIN)/python -m tests.e2e.newcomer --write

fault: setup  ## one row of docs/faults.md: make fault ROW=worker-sigkill
	$(BIN)/pytest tests/faults -m 'fault(name="$(ROW)")'

# The page is written first and put in its place then: a test reads it while it is made.
faults: setup  ## every row, every system call, and docs/faults.md from the results: a quarter of an hour
	mkdir -p build
	SEGWATCH_EVERY_SYSCALL=1 SEGWATCH_RANDOM_NIGHTS=1 $(BIN)/pytest tests/faults -m fault --timeout=3000 --junitxml=build/faults.xml; test $$? -le 1
	$(BIN)/python tests/faults/report.py build/faults.xml > build/faults.md; cp build/faults.md docs/faults.md

FAULTS ?= 1000
SEED ?= 1
soak: setup  ## fault after fault on one run, and the account: make soak FAULTS=100 SEED=3
	$(BIN)/python -m tests.faults.soak --faults $(FAULTS) --seed $(SEED)

BENCH ?=
bench-recovery: setup  ## every kind of incident on a small UNet, and the table in docs/recovery.md: half an hour; goes on where it was
	$(BIN)/python -m tests.bench.recovery --write $(BENCH)

bench: setup  ## every part against its peer or floor, and docs/performance.md: over twenty minutes. Or PARTS="step loss"
	$(BIN)/python -m tests.bench $(PARTS)
