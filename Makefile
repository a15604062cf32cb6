# Two commands do everything: make demo, make test. Each sets itself up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_OUT ?= demo-out
# One thread a process: the tests run in as many processes as there are cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

.PHONY: demo test lint format bench gpu-check clean

demo: $(READY)  ## Export the shipped model, verify it against eager, and let it write.
	$(BIN)/reformer-export onnx models/kjv-bytes $(DEMO_OUT) --overwrite
	$(BIN)/reformer-export verify $(DEMO_OUT)
	$(BIN)/reformer-export generate $(DEMO_OUT) --prompt "In the beginning" --max-new-tokens 200

test: $(READY)  ## Everything that needs no GPU.
	$(PYTEST) -m "not gpu and not tensorrt"

lint: $(READY)  ## What pre-commit and CI check.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## Portable file against eager; results in benchmarks/results.
	$(BIN)/python -m benchmarks.bench_portable

gpu-check: $(READY)  ## The checks that need an NVIDIA GPU.
	$(BIN)/python -m pytest -m gpu

clean:
	rm -rf $(VENV) $(DEMO_OUT) build dist

$(READY): pyproject.toml tests/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r tests/requirements.txt -e '.[dev]'
	touch $@
