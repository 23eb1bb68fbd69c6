# Every target sets up what it needs in .venv; a second call is quick.
PYTHON ?= python3
BIN := .venv/bin
NATIVE_TESTS := -m "native and not slow" tests/ops tests/test_values.py tests/test_codec.py
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check lint gpu-kernels bench bench-all bench-compare bench-isa isa aarch64 sanitizers cuda-sim ptx \
  fuzz kill torchrun docs examples accelerate explore wasm gpu-report wheel compilers matrix matrix-oldest matrix-newest \
  clean

demo: .venv/installed  ## pictures drawn from the shipped weights, in runs/demo
	$(BIN)/python examples/demo.py

test: .venv/installed
	$(BIN)/pytest -q -n auto -m "not slow"

check: lint gpu-kernels isa aarch64 sanitizers cuda-sim ptx fuzz kill torchrun docs examples accelerate explore \
  gpu-report wheel compilers matrix-oldest  ## the long checks

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror csrc/*.h csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu tests/*.h tests/*.cpp \
	  tests/ptx/*.h tests/ptx/*.cpp
	$(BIN)/mypy

# The Triton kernels compile for every architecture, in the registers on record; no GPU is needed.
gpu-kernels: .venv/installed
	$(BIN)/pytest -q -m slow tests/test_ahead_of_time.py tests/test_large_images_gpu.py

# The native tests again on every other instruction set of this processor; the same bits on all of them.
isa: .venv/installed
	$(BIN)/pytest -q -n auto -m isa tests/ops tests/test_values.py
	$(BIN)/pytest -q -m slow tests/test_conformance.py -k x86

# The same bits on aarch64, where a cross compiler and an emulator are at hand.
aarch64: .venv/installed
	$(BIN)/pytest -q -m slow tests/test_conformance.py -k aarch64

# The native code under AddressSanitizer and UndefinedBehaviorSanitizer, then under ThreadSanitizer.
sanitizers: build/asan/done build/tsan/done
	tests/sanitized build/asan asan $(NATIVE_TESTS)
	tests/sanitized build/tsan tsan $(NATIVE_TESTS)

build/asan/done: FLAGS := -fsanitize=address,undefined -fno-sanitize-recover=undefined
build/tsan/done: FLAGS := -fsanitize=thread
build/%/done: .venv/installed $(wildcard csrc/*.h csrc/*/*) $(wildcard vlae_fast/*.py vlae_fast/*/*.py kernels/*.py)
	CXXFLAGS="$(FLAGS)" VLAE_FAST_CUDA_ARCHITECTURES= $(BIN)/python setup.py -q build --build-base build/$*-objects --build-lib build/$*
	touch $@

# What the CUDA kernels take; their sources as C++ (tests/cuda_sim.h), every barrier missing once, then under
# AddressSanitizer (whose stack checks cannot follow fibers) and UndefinedBehaviorSanitizer.
cuda-sim: .venv/installed
	$(BIN)/pytest -q -n auto -m "slow and not isa" tests/ops/test_made_cuda.py tests/test_cuda_build.py
	CUDA_SIM_CXXFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined --param asan-stack=0" \
	  tests/sanitized . asan -m "gpu and not slow" tests/ops/test_made.py tests/ops/test_made_cuda.py

# What Triton and nvcc make of the kernels, executed on the CPU (tests/ptx): their own tests, any order of threads, every
# barrier missing once, planted faults. sentryward, an alpha, is never required.
COMPILED_TESTS := -m "not slow and not native" tests/ops tests/ptx/test_kernels.py tests/ptx/test_second_opinion.py
PTX_ARCHITECTURES := 80 90
ptx: .venv/installed
	$(BIN)/pip install -q sentryward || echo "without sentryward"
	for architecture in $(PTX_ARCHITECTURES); do \
	  VLAE_FAST_PTX=$$architecture $(BIN)/pytest -q -n auto $(COMPILED_TESTS) || exit 1; done

fuzz: .venv/installed
	$(BIN)/python tests/fuzz_data.py --files 15000
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz_codec.py --files 3000

# Trainings killed at random instants end as one left alone does.
kill: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/kill_loop.py --kills 20

# torchrun against one process: the same weights, also where a worker is killed, the same figures and images.
torchrun: .venv/installed
	$(BIN)/python -P tests/processes.py

docs: .venv/installed  ## a page for each public name in build/docs, from its docstrings
	$(BIN)/python docs/build.py build/docs

examples: .venv/installed
	rm -rf build/tour && $(BIN)/python examples/tour.py --out build/tour

# The flows of other libraries that vlae_fast.accelerate knows.
accelerate: .venv/installed
	$(BIN)/pip install -q nflows normflows zuko pyro-ppl || echo "without some of nflows, normflows, zuko and pyro"
	$(BIN)/pytest -q tests/test_accelerate.py tests/test_accelerate_runs.py tests/test_accelerate_objects.py

# The WebAssembly of `vlae-fast explore`, from the sources of csrc in plain arithmetic, as clang of PyPI's ziglang makes
# it: the same bytes on every machine.
WASM := vlae_fast/explore/vlae.wasm
WASM_SOURCES := $(wildcard csrc/wasm/*.cpp) $(patsubst %,csrc/%.cpp,bernoulli/bernoulli dense/dense exp/exp \
  made/forward made/inverse made/made pixelcnn/forward pixelcnn/sample resnet/resnet weight_norm/weight_norm)
WASM_FLAGS := -target wasm32-wasi -std=c++20 -O3 -msimd128 -mbulk-memory -ffp-contract=off -fno-exceptions -fno-rtti \
  -fvisibility=hidden -DVLAE_ISA=wasm -Icsrc -w
ZIG := ZIG_LOCAL_CACHE_DIR=build/zig ZIG_GLOBAL_CACHE_DIR=build/zig $(BIN)/python -m ziglang
wasm: build/wasm/vlae.wasm
	install -m 644 $< $(WASM)

build/wasm/vlae.wasm: $(WASM_SOURCES:csrc/%.cpp=build/wasm/%.o)
	$(ZIG) wasm-ld --no-entry --gc-sections -s -z stack-size=262144 --max-memory=2147483648 $^ -o $@

build/wasm/%.o: csrc/%.cpp $(wildcard csrc/*.h csrc/*/*.h) | .venv/zig
	mkdir -p $(@D) && $(ZIG) c++ $(WASM_FLAGS) -c $< -o $@

.venv/zig: .venv/installed
	$(BIN)/pip install -q ziglang
	touch $@

# The WebAssembly on record is that of the sources; a browser, where there is one, opens a page and plays with it.
explore: .venv/installed
	if $(MAKE) -s .venv/zig; then $(MAKE) -s build/wasm/vlae.wasm && cmp build/wasm/vlae.wasm $(WASM); \
	  else echo "ziglang not found: skipped"; fi
	$(BIN)/pytest -q -m slow tests/test_explore.py

# What runs on a GPU machine, all but the launches.
gpu-report: .venv/installed
	$(BIN)/python benchmarks/gpu_report.py --dry-run

# The sdist makes a wheel that works outside the checkout.
wheel: .venv/installed
	rm -rf build/wheel && $(BIN)/python -m build -q --outdir build/wheel
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/pip install -q build/wheel/*.whl
	cd build/wheel && venv/bin/python -I -c "import vlae_fast as v, vlae_fast.explore; model = v.VLAE(v.VLAEConfig()); \
	  print(model.sample(2).shape, len(v.explore.page(model)))"

# Ops and models with the oldest and the newest Python and packages that pyproject.toml claims, installed as a user does:
# 3 GB to load, 7 GB while it runs, as torch's builds for Linux bring CUDA; what is not at hand is skipped. `make check`
# has the oldest; all other tests run with the newest of constraints.txt.
oldest = $(shell grep -oE '"($(1))>=[0-9.]+"' pyproject.toml | tr -d '"' | sed 's/>=/==/')
OLDEST := $(call oldest,torch|numpy|safetensors|nanobind|setuptools)
pyenv = $(firstword $(wildcard $(HOME)/.pyenv/versions/$(1).*/bin/python) python$(1))
OLDEST_PYTHON ?= $(call pyenv,3.10)
NEWEST_PYTHON ?= $(call pyenv,3.13)
matrix: matrix-oldest matrix-newest

matrix-oldest:
	tests/matrix build/matrix/oldest $(OLDEST_PYTHON) $(OLDEST)

matrix-newest:
	tests/matrix build/matrix/newest $(NEWEST_PYTHON) torch numpy safetensors nanobind setuptools

# The native tests with the oldest compilers that csrc/vlae.h lets through, where they are at hand.
compilers: .venv/installed
	for compiler in g++-11 clang++-14; do if command -v $$compiler; then \
	  CXX=$$compiler VLAE_FAST_CUDA_ARCHITECTURES= $(BIN)/python setup.py -q build --build-base build/$$compiler-objects \
	    --build-lib build/$$compiler && \
	  PYTHONPATH=build/$$compiler $(BIN)/python -P -m pytest -q -n auto -p no:cacheprovider $(NATIVE_TESTS) || exit 1; \
	  else echo "$$compiler not found: skipped"; fi; done

# Speed against plain torch and the libraries: ten minutes, or all sizes. One thread; freed memory is kept, for all alike.
bench bench-all bench-compare bench-isa: export OMP_NUM_THREADS := 1
bench bench-all bench-compare bench-isa: export MALLOC_TRIM_THRESHOLD_ := 1073741824
bench bench-all bench-compare bench-isa: export MALLOC_MMAP_THRESHOLD_ := 1073741824
bench: BENCH := -m quick --seconds 0.5
bench-all: BENCH := --seconds 1
bench bench-all: .venv/contenders
	mkdir -p build
	$(BIN)/python -m pytest -q -p benchmarks.run benchmarks/run.py $(BENCH) --benchmark-json build/bench.json \
	  --benchmark-group-by group --benchmark-columns median,iqr,rounds
	$(BIN)/python -m benchmarks.report from build/bench.json

bench-compare: .venv/installed  ## what BASE=<git revision> and the checkout take, op by op
	$(BIN)/python -m benchmarks.compare $(BASE)

bench-isa: .venv/installed  ## is the best instruction set ever slower than the next?
	$(BIN)/python -m benchmarks.instruction_sets

.venv/contenders: .venv/installed
	$(BIN)/pip install -q -e ".[bench]" || echo "without nflows, normflows and zuko"
	touch $@

.venv/installed: pyproject.toml setup.py constraints.txt $(wildcard csrc/*.h csrc/*/*)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q setuptools nanobind ninja
	$(BIN)/pip install -q -e ".[cli,dev,demo]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info vlae_fast/*.so
