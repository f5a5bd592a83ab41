# Two commands on a fresh machine: `make demo` and `make test`; each sets up all it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

CXX_FILES := $(shell find kernels -name '*.h' -o -name '*.cpp')
# What the native module, and so the installation, is made of.
SOURCES := pyproject.toml CMakeLists.txt $(CXX_FILES)

.PHONY: demo test bench lint format clean

demo: $(VENV)/.with-demo
	$(BIN)/python -m examples.digits

# A process has one Keras backend, so Keras's tests run once for each.
test: $(VENV)/.with-test
	$(BIN)/python -m pytest tests/kernels tests/jax
	KERAS_BACKEND=torch $(BIN)/python -m pytest tests/keras
	KERAS_BACKEND=jax $(BIN)/python -m pytest tests/keras
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest tests/tensorflow tests/keras

bench: $(VENV)/.with-bench
	$(BIN)/python -m benchmarks

lint: $(VENV)/.with-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: $(VENV)/.with-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

# One editable installation; each target adds the packages of its own extra to it.
$(VENV)/.with-%: $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[$*]' \
	    --config-settings=cmake.define.NADAM_XLA_TESTING=ON
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist demo-output bench-output
