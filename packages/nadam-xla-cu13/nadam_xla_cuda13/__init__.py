"""The library with nadam_xla's CUDA kernels, built with CUDA 13. nadam_xla loads it."""
