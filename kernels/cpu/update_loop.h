// The update rule over a stretch of memory. Part of loops.cpp, whose rules hold here.
#pragma once

#include "kernels/update_call.h"
#include "kernels/update_rule.h"

namespace nadam_xla::cpu {
namespace {

// The divider is busy for most of the time that memory takes, so the hardware's own prefetching,
// cut short at every page of four streams, leaves gaps; asking this far ahead closes them
// (docs/performance/tried.md).
constexpr std::int64_t kPrefetchBytes = 2048;
constexpr std::int64_t kBlock = 64;  // elements between two rounds of prefetching

template <typename T>
void copy(const T* from, T* to, std::int64_t length) {
  if (from == to) return;
  for (std::int64_t i = 0; i < length; ++i) to[i] = from[i];
}

template <typename T>
void skip(const Streams<T>& s, Returns returns) {
  if (returns == Returns::kParams) {
    copy(s[Stream::kParams], s.out[0], s.length);
  } else {
    for (std::int64_t i = 0; i < s.length; ++i) s.out[0][i] = kNoChange<T>;
  }
  for (int i = 0; i < kStates; ++i) copy(s[state(i)], s.out[1 + i], s.length);
}

template <typename T, Returns kReturns>
NADAM_XLA_INLINE void update_elements(const Row<T>& row, const Streams<T>& s,
                                      const std::int64_t begin, const std::int64_t end) {
  // An output may be its own input, so the compiler cannot prove the iterations independent; they
  // are, and without this promise it emits scalar code, three times slower.
#pragma omp simd
  for (std::int64_t i = begin; i < end; ++i) update_element<kReturns>(row, s, i);
}

// Past the end of a stretch this asks for memory that may not be there, which is no fault.
template <typename T>
NADAM_XLA_INLINE void prefetch_block(const T* const stream) {
  constexpr std::int64_t kCacheLine = 64 / sizeof(T);
  for (std::int64_t i = 0; i < kBlock; i += kCacheLine) __builtin_prefetch(stream + i);
}

template <typename T, Returns kReturns>
void update(const Row<T>& given, const Streams<T>& streams) {
  // Copies: what is written might else be the row, for all that the compiler knows.
  const Row<T> row = given;
  const Streams<T> s = streams;
  std::int64_t i = 0;
  for (; i + kBlock <= s.length; i += kBlock) {
    const std::int64_t ahead = i + kPrefetchBytes / static_cast<std::int64_t>(sizeof(T));
    for (const T* const stream : s.in) prefetch_block(stream + ahead);
    update_elements<T, kReturns>(row, s, i, i + kBlock);
  }
  update_elements<T, kReturns>(row, s, i, s.length);
}

template <typename T>
void update_stretch(const Row<T>& row, const Streams<T>& streams, Returns returns) {
  if (row.skip) {
    skip(streams, returns);
  } else if (returns == Returns::kParams) {
    update<T, Returns::kParams>(row, streams);
  } else {
    update<T, Returns::kChange>(row, streams);
  }
}

}  // namespace
}  // namespace nadam_xla::cpu
