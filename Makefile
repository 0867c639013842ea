# `make demo` and `make test` need nothing but Python >= 3.11 and git: they make their own .venv first.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# one thread per process: the tests run two processes
ONE := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
PYTEST := $(ONE) NUINFER_FAST=1 MPLBACKEND=Agg $(BIN)/python -m pytest -n 2 --dist worksteal --durations=20

.PHONY: setup demo test test-slow lint format types docs api bench clean

setup: .venv/.stamp

.venv/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "nuinfer needs Python >= 3.11, found $$($(PYTHON) --version 2>&1); try make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,docs,data]'
	touch $@

demo: setup
	$(BIN)/python -m analyses.dayabay
	$(BIN)/python -m analyses.numu_water

test: lint types docs
	$(PYTEST)

test-slow: setup
	$(PYTEST) -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup
	$(BIN)/mypy

docs: setup
	$(ONE) MPLBACKEND=Agg $(BIN)/sphinx-build -E -q -W --keep-going -b html docs docs/_build/html

api: setup
	$(BIN)/python docs/api.py > docs/api.txt

bench: setup
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/omnifold_gaussian.py
	$(BIN)/python benchmarks/ensemble.py

clean:
	rm -rf .venv out docs/_build docs/tutorials .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
