// The update rule over a stretch of memory that is stored as the rule computes it. Part of
// loops.cpp, whose rules hold here.
#pragma once

#include "kernels/cpu/prefetch.h"
#include "kernels/update_call.h"
#include "kernels/update_rule.h"

namespace nadam_xla::cpu {
namespace {

template <Returns kReturns, Terms kTerms, typename T, Averaging kAveraging>
NADAM_XLA_INLINE void update_elements(const Row<T>& row, const Streams<T, kAveraging>& s,
                                      const std::int64_t begin, const std::int64_t end) {
  // An output may be its own input, so the compiler cannot prove the iterations independent; they
  // are, and without this promise it emits scalar code, three times slower.
#pragma omp simd
  for (std::int64_t i = begin; i < end; ++i) update_element<kReturns, kTerms>(row, s, i);
}

template <Returns kReturns, Terms kTerms, typename T, Averaging kAveraging>
void update(const Row<T>& given, const Streams<T, kAveraging>& streams) {
  // Copies: what is written might else be the row, for all that the compiler knows.
  const Row<T> row = given;
  const Streams<T, kAveraging> s = streams;
  constexpr std::int64_t kRound = 64;  // elements between two rounds of prefetching
  std::int64_t i = 0;
  for (; i + kRound <= s.length; i += kRound) {
    for (const T* const stream : s.in) prefetch(stream + i, kRound * sizeof(T));
    update_elements<kReturns, kTerms>(row, s, i, i + kRound);
  }
  update_elements<kReturns, kTerms>(row, s, i, s.length);
}

}  // namespace
}  // namespace nadam_xla::cpu
