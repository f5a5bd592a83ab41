// Asking for memory ahead of the loops. Part of loops.cpp, whose rules hold here.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace nadam_xla::cpu {
namespace {

// The divider is busy for most of the time that memory takes, so the hardware's own prefetching,
// cut short at every page of four streams, leaves gaps; asking this far ahead closes them
// (docs/performance/tried.md).
constexpr std::int64_t kPrefetchBytes = 2048;

// So many bytes, that far behind an address. Past the end of a stretch this asks for memory that
// may not be there, which is no fault.
NADAM_XLA_INLINE void prefetch(const void* const from, const std::int64_t bytes) {
  constexpr std::int64_t kCacheLine = 64;
  const char* const ahead = static_cast<const char*>(from) + kPrefetchBytes;
  for (std::int64_t at = 0; at < bytes; at += kCacheLine) __builtin_prefetch(ahead + at);
}

}  // namespace
}  // namespace nadam_xla::cpu
