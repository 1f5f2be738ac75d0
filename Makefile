# Every target does its own set-up: in .venv, and in .venv-peers where TransformerLens takes part.
PYTHON ?= python3
BIN := .venv/bin
PEERS := .venv-peers/bin

.PHONY: demo organism test test-slow test-browser setup lint types contracts pytest bench parity format clean

demo: setup
	$(BIN)/circuitlapse demo

# Pretrains the organism that the package ships: for when its recipe was changed.
organism: setup
	$(BIN)/python benchmarks/ship_organism.py

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

# A file's tests stay in one process, so that the runs they share are made once. Pretraining takes
# two threads all the same, and they sleep while they wait.
TESTS := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/pytest
BOTH := $(TESTS) -n 2 --dist loadfile --ignore=tests/browser

pytest: setup
	$(BOTH) -m 'not slow'

# What trains a real organism, or whole runs again and again.
test-slow: setup
	$(BOTH) -m slow

# The report in a real browser: Debian's Chromium, driven by Playwright's library. Screenshots and
# the measured speed of a slider step are left in build/browser.
test-browser: setup .venv/ready-browser
	command -v chromium >/dev/null || { apt-get update && apt-get install -y --no-install-recommends chromium; }
	CIRCUITLAPSE_SCREENSHOTS=build/browser $(TESTS) tests/browser

.venv/ready-browser: pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,browser]'
	touch $@

# Speed and memory compared with Hugging Face and TransformerLens; on a quiet machine, about half an hour.
bench: setup .venv-peers/ready
	$(BIN)/python benchmarks/engine.py --peer-python $(PEERS)/python $(BENCH)

# Logits, attributions and patches against TransformerLens.
parity: .venv-peers/ready
	OMP_NUM_THREADS=1 $(PEERS)/pytest tests/test_parity_transformerlens.py

.venv-peers/ready: pyproject.toml constraints.txt constraints-peers.txt
	$(PYTHON) -m venv .venv-peers
	$(PEERS)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --constraint constraints-peers.txt --editable '.[dev,peers]'
	touch $@

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-peers
