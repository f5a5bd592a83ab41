# The packages with the CUDA kernels: `make wheels-cuda`, a part of `make wheels`, builds them into
# dist/, and `make test-wheels-cuda` installs them beside nadam_xla, where no CUDA has to be.
#
# CUDACXX12=/path/to/nvcc and CUDACXX13 name compilers in the place of those that are set up here: of
# NVIDIA's own toolkits, say, as the images nvidia/cuda:12.4.1-devel and 13.0.0-devel have them.
.PHONY: wheels-cuda test-wheels-cuda

CUDACXX12 ?= $(VENV)-cuda12/bin/nvcc
CUDACXX13 ?= $(VENV)-cuda/nvcc

wheels: wheels-cuda

wheels-cuda: $(WHEELS)/.built-cuda

$(WHEELS)/.built-cuda: $(SOURCES) $(wildcard packages/*/* packages/*/*/*) tools/wheels/cuda.py \
    tools/wheels/building.py tools/wheels/zig.cmake | $(CUDACXX12) $(CUDACXX13) $(WHEELS)/.with-tools
	$(WHEELS)/bin/python -m tools.wheels.cuda $(abspath $(CUDACXX12) $(CUDACXX13))
	touch $@

$(VENV)-cuda12/bin/nvcc: tools/wheels/cuda12_toolkit.sh | $(BIN)/python
	$< $(VENV)-cuda12 $(BIN)/python
	touch $@

# With XLA's compilers for GPUs, to see that it finds the handlers.
test-wheels-cuda: $(WHEELS)/.built $(WHEELS)/.built-cuda $(VENV)-compilers/.installed $(VENV)/.with-test
	$(WITH_COMPILERS) $(BIN)/python -m pytest tests/wheels_cuda
