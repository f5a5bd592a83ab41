# What is published: `make wheels` builds it into dist/, `make test-wheels` installs it and trains.
.PHONY: wheels test-wheels test-aarch64

WHEELS := $(VENV)-wheels
PYTHON311 ?= $(call PYTHON_OF,3.11)
PYTHON313 ?= $(call PYTHON_OF,3.13)

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

# The source distribution has all that is tracked.
$(WHEELS)/.built: $(wildcard $(shell git ls-files 2>/dev/null)) | $(WHEELS)/.with-tools
	$(WHEELS)/bin/python -m tools.wheels $(PYTHON311) $(PYTHON312)
	touch $@

$(WHEELS)/.with-tools: tools/wheels/requirements.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --requirement $<
	touch $@

# The kernels of the wheel for aarch64, and a training step, in an emulator. Left out are the test of three
# billion elements, which are too many for it, and those that compile sources for this machine. The
# path is safe so that the package is the wheel's and not the checkout's.
NOT_EMULATED := test_concurrency.py test_choice_of_cuda_library.py test_run_chunks.py test_update_rule.py

test-aarch64: $(VENV)-aarch64/.made
	PYTHONSAFEPATH=1 $(<D)/bin/python -m pytest tests/kernels \
	    $(addprefix --ignore=tests/kernels/,$(NOT_EMULATED))
	$(<D)/bin/python -I tests/wheels/train_jax.py

$(VENV)-aarch64/.made: $(WHEELS)/.built
	$(WHEELS)/bin/python -m tools.wheels.emulation $(@D) $(PYTHON311)
	touch $@
