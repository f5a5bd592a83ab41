// How much memory this process has ever asked for, and how much a call may ask for.
#pragma once

#include <cstdint>

#include "tests/native_boundary/call_frame.h"

namespace nadam_xla::native_boundary {

std::int64_t bytes_allocated();  // with operator new, by all threads

// What a call may need beside its own buffers: something for each of them, and for its chunks.
inline std::int64_t most_bytes(const Call& call) {
  return 32768 + 1024 * static_cast<std::int64_t>(call.operands.size() + call.results.size());
}

}  // namespace nadam_xla::native_boundary
