// What the library with the CUDA handlers offers to whoever loads it. Plain C, so that the two may
// come from different compilers, with standard libraries of their own.
#pragma once

#include <cstdint>

#include "xla/ffi/api/c_api.h"

namespace nadam_xla::ffi {

// Counts the changes of the structs below. It comes first in the table; of another one, nothing
// else may be read.
inline constexpr std::int32_t kCudaInterface = 1;

struct CudaTarget {
  const char* name;
  XLA_FFI_Handler* initialize;  // run before a program is
  XLA_FFI_Handler* execute;
};

struct CudaLibrary {
  std::int32_t interface;
  std::int32_t toolkit_version;  // as CUDA counts: 1000 * major + 10 * minor
  const char* package_version;   // of the nadam_xla that it was built from
  const CudaTarget* targets;
  std::int64_t target_count;
  const std::int32_t* architectures;  // with machine code: 90 is compute capability 9.0
  std::int64_t architecture_count;
};

// The one symbol of the library: a function without arguments that returns the table.
inline constexpr const char* kCudaLibrarySymbol = "nadam_xla_cuda_library";
using GetCudaLibrary = const CudaLibrary*();

}  // namespace nadam_xla::ffi
