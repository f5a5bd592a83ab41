"""The library with nadam_xla's CUDA kernels, built with CUDA 12. nadam_xla loads it."""
