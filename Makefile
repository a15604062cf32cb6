# Two commands do everything: make demo, make test. Each sets itself up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_OUT ?= demo-out
# One thread a process: the tests run in as many processes as there are cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

LIBRARY := reformer_export/_native/libreformer_onnxruntime.so
CXX_SOURCES := $(shell find plugins -name '*.cc' -o -name '*.h')
PLUGIN_SOURCES := $(CXX_SOURCES) $(shell find plugins -name 'CMake*' -o -name '*.cmake')

.PHONY: demo test test-python test-native sanitize native lint format bench wheel-check gpu-check clean

demo: $(READY)  ## Export the shipped model, verify it against eager, and let it write.
	$(BIN)/reformer-export onnx models/kjv-bytes $(DEMO_OUT) --overwrite
	$(BIN)/reformer-export verify $(DEMO_OUT)
	$(BIN)/reformer-export generate $(DEMO_OUT) --prompt "In the beginning" --temperature 0.7 --max-new-tokens 300

test: test-native test-python  ## Everything that needs no GPU.

test-python: $(READY)
	$(PYTEST) -m "not gpu and not tensorrt"

# The library is optional, and so are its tests where it cannot be built; REQUIRE_NATIVE=1 insists.
test-native: $(READY)
	@if $(MAKE) --no-print-directory native; then (cd plugins && ctest --preset host); \
	elif [ -n "$(REQUIRE_NATIVE)" ]; then exit 1; \
	else echo "No native library: its tests are skipped, everything else is tested."; fi

native: $(LIBRARY)  ## The C++ operator library, for this clone.

$(LIBRARY): $(PLUGIN_SOURCES)
	cd plugins && cmake --preset host && cmake --build --preset host
	mkdir -p $(dir $@)
	install build/host/onnxruntime/$(notdir $@) $@

sanitize:  ## The C++ tests under the address, undefined-behaviour and thread sanitizers.
	cd plugins && for preset in host-asan host-tsan; do \
	  cmake --preset $$preset && cmake --build --preset $$preset && ctest --preset $$preset || exit 1; done

lint: $(READY)  ## What pre-commit and CI check.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

bench: $(READY)  ## Portable file against eager; results in benchmarks/results.
	$(BIN)/python -m benchmarks.bench_models --shape crime

# A deployment: the wheel and ONNX Runtime in a clean environment, without torch, run what `make demo` exported.
wheel-check: $(READY)
	rm -rf build/wheel build/deployment
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m venv build/deployment
	build/deployment/bin/python -m pip install --quiet "$$(ls build/wheel/*.whl)[cpu]"
	! build/deployment/bin/python -c "import torch" 2> /dev/null
	build/deployment/bin/reformer-export generate $(DEMO_OUT) --prompt "And God said" --max-new-tokens 50 --native on

gpu-check:  ## The checks that need an NVIDIA GPU, in an environment of their own.
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --quiet -r tests/requirements.txt -e '.[dev]' -C wheel.cmake=false
	.venv-gpu/bin/python -m pip uninstall --quiet --yes onnxruntime
	.venv-gpu/bin/python -m pip install --quiet '.[gpu]' -C wheel.cmake=false
	.venv-gpu/bin/python -m pytest -m gpu

clean:
	rm -rf $(VENV) $(DEMO_OUT) build dist reformer_export/_native

$(READY): pyproject.toml tests/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r tests/requirements.txt -e '.[dev]' -C wheel.cmake=false
	touch $@
