# What is published: `make wheels` builds it into dist/, `make test-wheels` installs it and trains.
.PHONY: wheels test-wheels test-refused-machines test-aarch64

WHEELS := $(VENV)-wheels
PYTHON311 ?= $(call PYTHON_OF,3.11)

ifneq ($(and $(PYTHON311),$(PYTHON312)),)
wheels: $(WHEELS)/.built

test-wheels: $(WHEELS)/.built
	PYTHON311=$(PYTHON311) PYTHON312=$(PYTHON312) PYTHON313=$(PYTHON313) \
	    $(WHEELS)/bin/python -m pytest tests/wheels
else
NO_PYTHON := wheels are built for Python 3.11 and 3.12, and one is neither on the PATH nor in pyenv; \
    PYTHON311=/path/to/python3.11 and PYTHON312 name them

wheels:
	$(error $(NO_PYTHON))

test-wheels:
	@echo "test-wheels SKIPPED: $(NO_PYTHON)"
endif

# Of the tests of wheels the one that builds none.
test-refused-machines: $(WHEELS)/.with-tools
	$(WHEELS)/bin/python -m pytest tests/wheels/test_refused_machines.py

# The source distribution has all that is tracked.
$(WHEELS)/.built: $(wildcard $(shell git ls-files 2>/dev/null)) | $(WHEELS)/.with-tools
	$(WHEELS)/bin/python -m tools.wheels $(PYTHON311) $(PYTHON312)
	touch $@

$(WHEELS)/.with-tools: tools/wheels/requirements.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --requirement $<
	touch $@

# The kernels of the wheel for aarch64, in an emulator. What they store is compared with what is stored
# here, call for call; that needs no JAX there. `make test-aarch64-whole` makes ten times as many calls,
# and then runs the tests of the kernels, and a training step, which takes the emulator long. Left out
# are the test of three billion elements, which are too many for it, and those that compile
# sources for this machine. The path is safe so that the package is the wheel's and not the checkout's.
.PHONY: test-aarch64-whole
AARCH64 := $(VENV)-aarch64
EMULATED := PYTHONSAFEPATH=1 $(AARCH64)/bin/python
NOT_EMULATED := test_concurrency.py test_choice_of_cuda_library.py test_run_chunks.py test_update_rule.py
SAME_BITS = AARCH64_PYTHON=$(abspath $(AARCH64))/bin/python \
    AARCH64_BITS=$(abspath $(BOUNDARY))/bits-aarch64/tests/native_boundary/libbits.so \
    NATIVE_BITS=$(abspath $(BOUNDARY))/bits/tests/native_boundary/libbits.so

ifneq ($(and $(PYTHON311),$(PYTHON312),$(shell command -v qemu-aarch64),$(shell command -v mmdebstrap)),)
test-aarch64: $(AARCH64)/.made $(BOUNDARY)/.with-bits $(VENV)/.with-test
	$(SAME_BITS) $(BIN)/python -m pytest tests/emulated

test-aarch64-whole: $(AARCH64)/.with-tests $(BOUNDARY)/.with-bits $(VENV)/.with-test
	$(SAME_BITS) CALLS=20000 $(BIN)/python -m pytest tests/emulated
	$(EMULATED) -m pytest tests/kernels $(addprefix --ignore=tests/kernels/,$(NOT_EMULATED))
	$(EMULATED) -I tests/wheels/train_jax.py
else
test-aarch64 test-aarch64-whole:
	@echo "$@ SKIPPED: it needs Python 3.11 and 3.12, and Debian's packages qemu-user and mmdebstrap"
endif

$(AARCH64)/.made: $(WHEELS)/.built
	$(WHEELS)/bin/python -m tools.wheels.emulation $(@D)
	touch $@

$(AARCH64)/.with-tests: $(AARCH64)/.made
	$(WHEELS)/bin/python -m tools.wheels.emulation $(@D) --with-tests $(PYTHON311)
	touch $@

# What makes the calls: for this machine by its own compiler, for the other one by zig.
$(BOUNDARY)/.with-bits: $(BOUNDARY)/.with-headers $(WHEELS)/.with-tools $(wildcard tests/native_boundary/*) \
    tools/wheels/zig.cmake
	$(call build_boundary,bits,-O2,ON,bits)
	$(call build_boundary,bits-aarch64,-O2,ON,bits,-DCMAKE_TOOLCHAIN_FILE=$(abspath tools/wheels/zig.cmake) \
	    -DZIG=$$(echo $(abspath $(WHEELS))/lib/python*/site-packages/ziglang/zig) -DZIG_ARCHITECTURE=aarch64)
	touch $@
