# Two commands on a fresh machine: `make demo` and `make test`; each sets up all it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

CXX_FILES := $(shell find kernels tests -name '*.h' -o -name '*.cpp' -o -name '*.cu')
# What the native modules, and so the editable installation, are made of.
SOURCES := pyproject.toml $(shell find CMakeLists.txt kernels -type f)
DEFINE := --config-settings=cmake.define
WITH_TESTING_MODULE := $(DEFINE).NADAM_XLA_TESTING=ON

# The CUDA compiler: the machine's, or PyPI's where there is none.
NVCC := $(shell command -v nvcc)
ifeq ($(NVCC),)
NVCC := $(VENV)-cuda/nvcc
endif

# The lower bounds of extras, as pins. The tests need less than all of TensorFlow.
LOWEST = $(shell $(PYTHON) tools/requirements.py --lowest $1)
LOWEST_JAX = $(call LOWEST,jax)
LOWEST_TENSORFLOW = $(patsubst tensorflow==%,tensorflow-cpu==%,$(call LOWEST,tensorflow keras))
# A Python of a version. pyenv's are on the PATH even where they do not run, so each candidate is
# tried.
PYTHON_OF = $(shell for python in python$1 "$$(pyenv root)"/versions/$1.*/bin/python$1; do \
    "$$python" -c pass && echo "$$python" && break; done 2>/dev/null)
PYTHON312 ?= $(call PYTHON_OF,3.12)
PYTHON313 ?= $(call PYTHON_OF,3.13)
# Newer versions of JAX exist for later Pythons than 3.11; NEWEST_PYTHON=/path/to/python3 tries another.
NEWEST_PYTHON ?= $(or $(PYTHON313),$(PYTHON312))
NOT_SLOW := -m "not slow"
# On the oldest and the newest frameworks, and of curves: each test's first case, and one in so many of
# the others, and no slow test; or all.
CASES_ONE_IN ?= 1
WITH_ALL_CASES := $(filter 1,$(CASES_ONE_IN))
SOME_CASES := $(if $(WITH_ALL_CASES),,--cases-one-in=$(CASES_ONE_IN) $(NOT_SLOW))

.PHONY: demo test test-jax test-sharding test-gpu test-documentation test-keras-tensorflow \
    test-keras-jax test-keras-torch test-diagnosis test-faults test-all test-every-float32 \
    test-million-steps test-lowest-jax test-newest-jax test-lowest-tensorflow \
    test-absent-devices test-slow test-slow-faults absent-devices soak docs bench lint format clean

demo: $(VENV)/.with-demo
	$(BIN)/python -m examples.digits

# Two suites at a time: most of what a test does, tracing and compiling, is the work of one core.
SIDE_BY_SIDE := --no-print-directory --jobs=2 --output-sync=target

# Most of what a test of JAX does is to compile a program that it runs once or twice. XLA does that in
# half the time with its older code generator, little optimization, and one part for each program.
# Those that look at what a program has become compile it as a user does.
QUICKLY_COMPILED := --xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=1 \
    --xla_cpu_parallel_codegen_split_count=1
OF_PROGRAMS := $(patsubst %,tests/jax/test_%.py,compilation documented_fusions early_calls in_place \
    one_pass_in_frameworks)

test-jax test-sharding test-gpu test-documentation test-keras-jax test-faults test-slow-faults \
    test-lowest-jax: export XLA_FLAGS := $(QUICKLY_COMPILED)
# The XLA of JAX 0.12 has one code generator, and XLA ends the process where it does not know a flag. The
# older generator of JAX 0.8.2 crashes in a program of test_narrow_storage.py.
WITH_ONE_GENERATOR := $(filter-out %_emitters=false,$(QUICKLY_COMPILED))
OF_STORAGE := tests/jax/test_narrow_storage.py

test-newest-jax: export XLA_FLAGS := $(WITH_ONE_GENERATOR)

test: $(VENV)/.with-test
	$(MAKE) $(SIDE_BY_SIDE) test-jax test-keras-tensorflow test-sharding test-keras-jax \
	    test-documentation test-diagnosis test-gpu test-keras-torch test-faults

# A process has one Keras backend, and one number of devices, so each line is a process of its own.
# The snippets of a page run where its folder says; pages in no folder run with those of JAX.
test-jax: $(VENV)/.with-test
	XLA_FLAGS= $(BIN)/python -m pytest $(OF_PROGRAMS)
	$(BIN)/python -m pytest $(NOT_SLOW) tests/kernels tests/jax $(addprefix --ignore=,$(OF_PROGRAMS))

test-sharding: $(VENV)/.with-test
	$(BIN)/python -m pytest $(NOT_SLOW) tests/sharding

test-documentation: $(VENV)/.with-test
	$(BIN)/python -m pytest $(NOT_SLOW) tests/documentation tests/mutants
	$(BIN)/python -m pytest docs/jax docs/*.md

test-gpu: $(VENV)/.with-test
	$(BIN)/python -m pytest tests/gpu tests/gpu_check

test-keras-tensorflow: export KERAS_BACKEND := tensorflow
test-keras-tensorflow: $(VENV)/.with-test
	$(BIN)/python -m pytest $(NOT_SLOW) tests/tensorflow tests/keras
	$(BIN)/python -m pytest $(NOT_SLOW) tests/distribute
	$(BIN)/python -m pytest docs/keras docs/tensorflow

test-keras-jax: export KERAS_BACKEND := jax
test-keras-jax: $(VENV)/.with-test
	$(BIN)/python -m pytest $(NOT_SLOW) tests/keras
	$(BIN)/python -m pytest tests/keras_distribution
	$(BIN)/python -m pytest docs/keras

test-keras-torch: export KERAS_BACKEND := torch
test-keras-torch: $(VENV)/.with-test
	$(BIN)/python -m pytest $(NOT_SLOW) tests/keras

test-diagnosis: $(VENV)/.with-test
	$(BIN)/python -m pytest tests/diagnosis

# Trainings that are killed, forked, raced and ended, and frameworks that are not as they should be.
# Each in processes of its own; those of TensorFlow, which takes long to start, are apart.
test-faults: $(VENV)/.with-test
	$(BIN)/python -m pytest $(NOT_SLOW) tests/faults

# What takes ten seconds or more, but for the faults.
test-slow: $(VENV)/.with-test
	$(BIN)/python -m pytest -m slow tests/kernels tests/jax tests/documentation
	$(BIN)/python -m pytest -m slow tests/sharding
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -m slow tests/tensorflow tests/keras
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -m slow tests/distribute
	KERAS_BACKEND=jax $(BIN)/python -m pytest -m slow tests/keras

test-slow-faults: $(VENV)/.with-test
	$(BIN)/python -m pytest tests/faults -m slow
	$(BIN)/python tests/soak/soak.py --rounds 12

# Half an hour of training with changing shapes and rebuilt models: what the processes hold is what they
# hold with stock's optimizer, but for what TensorFlow keeps of graphs that call a compiled function.
soak: $(VENV)/.with-test
	$(BIN)/python tests/soak/soak.py

# What takes longer than `make test`, in part, for all of it takes hours of a core: JAX's tests on the
# oldest JAX that we support and on the newest, TensorFlow's and Keras's on the oldest TensorFlow and
# Keras, without JAX, all against the package as a user installs it, and Keras's training curves for each
# argument, of each test the first case and one in 50 of the others; the slow tests and faults, and a short
# soak; a 32nd of all float32, and a million steps, in each storage; what XLA's compilers make of steps for
# GPUs and TPUs that are not there; the handlers under sanitizers; and some of the mutants. Each of these
# targets by its own name runs all of its cases. Apart are those that take longest: Keras's own tests with
# our class (test-keras-own-tensorflow and -jax), the wheels (test-wheels and test-wheels-cuda) and, for it
# needs an emulator, test-aarch64.
test-all: $(VENV)/.with-test
	$(MAKE) $(SIDE_BY_SIDE) CASES_ONE_IN=50 FLOATS_ONE_IN=32 test-newest-jax test-lowest-jax \
	    test-lowest-tensorflow test-slow test-slow-faults test-absent-devices sanitize mutants-sample \
	    test-refused-machines test-curves-tensorflow test-every-float32 test-million-steps

test-lowest-jax: $(VENV)-lowest-jax/.installed
	XLA_FLAGS="$(WITH_ONE_GENERATOR)" $(<D)/bin/pytest $(SOME_CASES) $(OF_STORAGE)
	$(<D)/bin/pytest $(SOME_CASES) tests/jax --ignore=$(OF_STORAGE)
	$(if $(WITH_ALL_CASES),$(<D)/bin/pytest tests/sharding)
	$(if $(WITH_ALL_CASES),$(<D)/bin/pytest docs/jax)

$(VENV)-lowest-jax/.installed: PYTHON_OF_VENV = $(PYTHON)
$(VENV)-lowest-jax/.installed: PINS = $(LOWEST_JAX)

ifneq ($(NEWEST_PYTHON),)
test-newest-jax: $(VENV)-newest-jax/.installed
	$(<D)/bin/pytest $(SOME_CASES) tests/jax
	$(<D)/bin/pytest $(SOME_CASES) tests/sharding
	$(if $(WITH_ALL_CASES),$(<D)/bin/pytest docs/jax)

$(VENV)-newest-jax/.installed: PYTHON_OF_VENV = $(NEWEST_PYTHON)
else
test-newest-jax:
	@echo "test-newest-jax SKIPPED: there is no Python 3.12 or 3.13 on the PATH or in pyenv, and the" \
	    "newest JAX needs one; NEWEST_PYTHON=/path/to/python3 names it"
endif

test-curves-%: $(VENV)/.with-test
	KERAS_BACKEND=$* $(BIN)/python -m pytest $(SOME_CASES) tests/curves

test-keras-own-%: $(VENV)/.with-test
	KERAS_BACKEND=$* $(BIN)/python tests/keras_own/run.py

# What each instruction set stores and reads of every float32, and what the CUDA kernels' encoders and
# decoders do on the host. Ten minutes on two cores; `make test-all` tries some, others each time.
FLOATS_ONE_IN ?= 1

test-every-float32: $(VENV)/.with-test
	$(BIN)/python -m pytest tests/every_float32 --one-in=$(FLOATS_ONE_IN)

# What rounding adds up to in a million steps, for each storage.
test-million-steps: $(VENV)/.with-test
	$(BIN)/python -m pytest tests/million_steps

test-lowest-tensorflow: $(VENV)-lowest-tensorflow/.installed
	KERAS_BACKEND=tensorflow $(<D)/bin/pytest $(SOME_CASES) tests/tensorflow tests/keras
	$(if $(WITH_ALL_CASES),KERAS_BACKEND=tensorflow $(<D)/bin/pytest tests/distribute)

$(VENV)-lowest-tensorflow/.installed: PYTHON_OF_VENV = $(PYTHON)
$(VENV)-lowest-tensorflow/.installed: PINS = $(LOWEST_TENSORFLOW)
$(VENV)-lowest-tensorflow/.installed: EXTRA = test-tensorflow

# A folder beside the environment: in it, the plugins would have JAX look for GPUs and TPUs.
WITH_COMPILERS = PYTHONPATH=$(abspath $(VENV)-compilers) PATH="$$PATH:$(PTXAS)"
PTXAS = $(abspath $(dir $(firstword $(wildcard $(VENV)-cuda/lib/python*/site-packages/nvidia/cu*/bin/ptxas))))

test-absent-devices: $(VENV)-compilers/.installed
	$(WITH_COMPILERS) $(BIN)/python -m pytest tests/compiled_for

absent-devices: $(VENV)-compilers/.installed
	$(WITH_COMPILERS) $(BIN)/python tests/absent_devices.py

$(VENV)-compilers/.installed: pyproject.toml | $(VENV)/.with-test
	rm -rf $(@D)
	$(BIN)/python -m pip install --quiet --no-deps --target $(@D) \
	    $$($(BIN)/python tests/absent_devices.py --packages)
	touch $@

# The documentation, and then a look at every page and link of it.
docs: $(VENV)/.with-docs
	rm -rf docs/_build
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build/html
	$(BIN)/python -m pytest tests/site

include tests/native_boundary/native_boundary.mk
include tools/wheels/wheels.mk
include tools/wheels/cuda.mk
include tools/mutants/mutants.mk

bench: $(VENV)/.with-bench
	$(BIN)/python -m benchmarks

lint: $(VENV)/.with-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms \
	    $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.citation-file-format CITATION.cff

format: $(VENV)/.with-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

# One editable installation; each target adds the packages of its own extra to it. The tests need
# the CUDA kernels; elsewhere they are built where there is an nvcc. Where the installation of the tests
# is up to date, it serves the others too, and nothing is built.
$(VENV)/.with-test: export CUDACXX = $(abspath $(NVCC))
$(VENV)/.with-test: WITH_CUDA := $(DEFINE).NADAM_XLA_CUDA=ON
$(VENV)/.with-test: | $(NVCC)

IS_BUILT = [ -e $(VENV)/.with-test ] && [ -z "$$(find $(SOURCES) -newer $(VENV)/.with-test)" ]
PACKAGES = $$($(PYTHON) tools/requirements.py $*)
EDITABLE = --editable '.[$*]' $(WITH_TESTING_MODULE) $(WITH_CUDA)

$(VENV)/.with-%: $(SOURCES) | $(BIN)/python
	if $(IS_BUILT); then $(BIN)/python -m pip install --quiet $(PACKAGES); \
	    else $(BIN)/python -m pip install --quiet $(EDITABLE); fi
	touch $@

$(VENV)-cuda/nvcc: pyproject.toml
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet $$($(PYTHON) tools/requirements.py cuda-toolkit)
	cd $(@D)/lib/python*/site-packages/nvidia/cu13 && ln -s lib lib64  # where nvcc looks
	printf '#!/bin/sh\nexec %s "$$@"\n' $(abspath $(@D))/lib/python*/site-packages/nvidia/cu13/bin/nvcc >$@
	chmod +x $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# A normal installation, whole again whenever the package has changed. Each is built in a folder of its
# own, so that several may be at a time.
EXTRA = test-jax
$(VENV)-%/.installed: $(SOURCES) $(shell find nadam_xla -name '*.py')
	$(PYTHON_OF_VENV) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet $(PINS) '.[$(EXTRA)]' $(WITH_TESTING_MODULE) \
	    $(DEFINE).NADAM_XLA_CUDA=OFF --config-settings=build-dir=build/$*
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-* build dist demo-output bench-output docs/_build
