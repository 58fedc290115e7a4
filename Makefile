PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check clean

demo: .venv/ready
	$(BIN)/whenlens run --pair countdown-rl --out runs/demo

test: .venv/ready
	$(BIN)/ruff check interp probes figures tests
	$(BIN)/ruff format --check interp probes figures tests
	$(BIN)/pyright
	$(BIN)/python -m pytest

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv runs
