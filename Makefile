# `make demo` and `make test` do all their set-up themselves, in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test setup lint types contracts pytest format clean

demo: setup
	$(BIN)/circuitlapse demo

test: lint types contracts pytest

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/pyright

contracts: setup
	$(BIN)/lint-imports

pytest: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv
