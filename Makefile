# Needs Python 3.11 or later, make and a package registry; everything else goes into $(VENV).
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
MINUTES ?= 30

BIN := $(VENV)/bin
# One torch thread in each of two workers: faster than two threads in one, and the sums repeat.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help run run-all test test-slow soak lint format bench docs clean

help: ## list the targets
	@echo "crossd: make TARGET [ARGS='...'] [PYTHON=python3.12] [VENV=.venv]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 14

run: $(VENV)/.installed ## train on slices, answer on volumes, compare three ways: the report in runs/transfer
	$(BIN)/crossd transfer --arms projection,slices,triplanar --protocols zero --out runs/transfer --overwrite $(ARGS)

run-all: $(VENV)/.installed ## the same with every arm, and with few labelled volumes: the report in runs/transfer-all
	$(BIN)/crossd transfer --out runs/transfer-all --overwrite $(ARGS)

test: $(VENV)/.installed ## run the tests and the docstring examples
	$(PYTEST) $(ARGS)

test-slow: $(VENV)/.installed ## run the tests that take minutes
	$(PYTEST) -m slow $(ARGS)

soak: $(VENV)/.installed ## train for MINUTES (30) and see that memory and open files stay
	CROSSD_SOAK_MINUTES=$(MINUTES) $(PYTEST) -n 0 -rA -m slow tests/commands/test_soak.py $(ARGS)

lint: $(VENV)/.installed ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed ## put the code in the style that lint wants
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed ## time and memory against the plain network: tables and a picture in runs/bench
	$(BIN)/python benchmarks/cost.py --out runs/bench --overwrite $(ARGS)

docs: $(VENV)/.docs ## build the documentation in docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

clean: ## remove caches and builds; keeps $(VENV) and runs/
	rm -rf build dist docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "crossd needs Python 3.11 or later, which '$(PYTHON)' is not; name one: make PYTHON=python3.12" >&2; \
	  exit 1; }
	@echo "Installing crossd and its dependencies into $(VENV): some minutes the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.installed
	@echo "Installing what builds the documentation into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@
