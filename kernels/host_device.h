// Functions that the CPU's loops and the CUDA kernels share.
#pragma once

#include "kernels/machine.h"

#if defined(__CUDACC__)
#define NADAM_XLA_INLINE __host__ __device__ __forceinline__
#else
// Forced: a copy emitted for one instruction set must never be called by code built for another.
#define NADAM_XLA_INLINE inline __attribute__((always_inline))
#endif

#if defined(__CUDA_ARCH__)
#define NADAM_XLA_UNROLL _Pragma("unroll")
#define NADAM_XLA_NO_UNROLL _Pragma("unroll 1")
#else
#define NADAM_XLA_UNROLL
#define NADAM_XLA_NO_UNROLL
#endif
