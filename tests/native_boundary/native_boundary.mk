# The handlers without Python and without XLA, under sanitizers. `make sanitize` is the short form that
# `make test-all` runs, with the loops that every processor has. `make fuzz` has those of each instruction
# set of this machine, for FUZZ_SECONDS each; another FUZZ_SEED makes other calls.
.PHONY: fuzz sanitize sanitize-addresses sanitize-threads

BOUNDARY := $(VENV)-native-boundary
FUZZ_SECONDS ?= 120
FUZZ_SEED ?= 1
# Of the short form.
FUZZ_CALLS := 20000
CALLS_WITH_THREADS := 2000

OF_ADDRESSES := -fsanitize=address,undefined,float-cast-overflow
OF_THREADS := -fsanitize=thread

fuzz: $(BOUNDARY)/.with-headers
	$(call build_boundary,every,$(OF_ADDRESSES),OFF,fuzz)
	for isa in $$($(BOUNDARY)/every/fuzz --instruction-sets); do \
	    NADAM_XLA_MAX_ISA=$$isa $(BOUNDARY)/every/fuzz --seconds $(FUZZ_SECONDS) \
	        --seed $(FUZZ_SEED) || exit 1; done

sanitize: sanitize-addresses sanitize-threads

sanitize-addresses: $(BOUNDARY)/.with-headers
	$(call build_boundary,addresses,$(OF_ADDRESSES),ON,fuzz)
	$(BOUNDARY)/addresses/fuzz --calls $(FUZZ_CALLS) --seed $(FUZZ_SEED)

sanitize-threads: $(BOUNDARY)/.with-headers
	$(call build_boundary,threads,$(OF_THREADS),ON,threads)
	TSAN_OPTIONS=halt_on_error=1 $(BOUNDARY)/threads/threads $(CALLS_WITH_THREADS)

# Of a folder, the sanitizers, whether the baseline's loops are the only ones, the driver, and what else
# CMake is told.
define build_boundary
@$(BOUNDARY_CMAKE) -S . -B $(BOUNDARY)/$1 -DCMAKE_BUILD_TYPE=Sanitized -DNADAM_XLA_NATIVE_BOUNDARY=ON \
    -DNADAM_XLA_CUDA=OFF -DNADAM_XLA_BASELINE_ONLY=$3 $5 \
    -DNADAM_XLA_FFI_INCLUDE_DIR=$(abspath $(BOUNDARY))/packages/jaxlib/include \
    -DCMAKE_RUNTIME_OUTPUT_DIRECTORY=$(abspath $(BOUNDARY))/$1 \
    -DCMAKE_CXX_FLAGS="-O1 -g1 -fno-omit-frame-pointer -fno-sanitize-recover=all $2" >$(BOUNDARY)/$1.log \
    || { cat $(BOUNDARY)/$1.log; exit 1; }
@$(BOUNDARY_CMAKE) --build $(BOUNDARY)/$1 --parallel 2 --target $4 >$(BOUNDARY)/$1.log \
    || { cat $(BOUNDARY)/$1.log; exit 1; }
endef

# The headers that the package is built with, and CMake where the machine has none.
BOUNDARY_CMAKE := $(or $(shell command -v cmake),PYTHONPATH=$(BOUNDARY)/packages $(BOUNDARY)/packages/bin/cmake)

$(BOUNDARY)/.with-headers: pyproject.toml | $(BIN)/python
	rm -rf $(@D)/packages
	$(BIN)/python -m pip install --quiet --no-deps --target $(@D)/packages \
	    $$($(PYTHON) tools/requirements.py --build jaxlib) $(if $(shell command -v cmake),,cmake)
	touch $@
