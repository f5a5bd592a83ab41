// Moments in codes: those of a step, as numbers of the rule and back. Part of loops.cpp, whose
// rules hold here.
#pragma once

#include <cstdint>

#include "kernels/blockwise.h"
#include "kernels/cpu/codec.h"

namespace nadam_xla::cpu {
namespace {

// The codes of a pair are widened to a word before anything is computed, and narrowed behind it:
// loops over words alone become better vectors.
template <typename Code>
NADAM_XLA_INLINE void decode_codes(const void* const from, const float factor, float* const to) {
  alignas(64) std::uint32_t pairs[kPairs];
  for (std::int64_t i = 0; i < kPairs; i += kWordsOfVector) {
    store(widened(advanced(from, 2 * i)), pairs + i);
  }
#pragma omp simd
  for (std::int64_t i = 0; i < kPairs; ++i) {
    to[i] = Code::decoded(pairs[i] << 24, factor);
    to[kPairs + i] = Code::decoded(pairs[i] >> 8 << 24, factor);
  }
}

// inverse: zero where there are no codes, for all numbers are zero or not all of them finite.
template <typename Code>
NADAM_XLA_INLINE void encode_codes(const float* const from, const float inverse,
                                   const std::uint32_t* const draws, void* const to) {
  alignas(64) std::uint32_t pairs[kPairs];
  const std::uint32_t kept = inverse == 0 ? 0 : 0xffff;
#pragma omp simd
  for (std::int64_t i = 0; i < kPairs; ++i) {
    const std::uint32_t even_draw = blockwise::added_by<Code>(of_even(draws[i]));
    const std::uint32_t odd_draw = blockwise::added_by<Code>(of_odd(draws[i]));
    const std::uint32_t even = Code::encoded(from[i], inverse, even_draw);
    const std::uint32_t odd = Code::encoded(from[kPairs + i], inverse, odd_draw);
    pairs[i] = ((even & 0xff) | odd << 8) & kept;
  }
  for (std::int64_t i = 0; i < kPairs; i += kWordsOfVector) {
    store_narrowed(words_at(pairs + i), advanced(to, 2 * i));
  }
}

NADAM_XLA_INLINE void decode_codes(const Storage storage, const void* const from,
                                   const float factor, float* const to) {
  return storage == Storage::kBlock8Signed ? decode_codes<blockwise::Signed>(from, factor, to)
                                           : decode_codes<blockwise::Unsigned>(from, factor, to);
}

NADAM_XLA_INLINE void encode_codes(const Storage storage, const float* const from,
                                   const float inverse, const std::uint32_t* const draws,
                                   void* const to) {
  return storage == Storage::kBlock8Signed
             ? encode_codes<blockwise::Signed>(from, inverse, draws, to)
             : encode_codes<blockwise::Unsigned>(from, inverse, draws, to);
}

// The bits of the largest magnitude of some numbers, or of a NaN.
class LargestMagnitude {
 public:
  // Those of a whole step.
  NADAM_XLA_INLINE void see_step(const float* const numbers) {
    for (std::int64_t i = 0; i < kStep; i += kWordsOfVector) {
      const Words magnitudes = words_at(numbers + i) & ~kSign;
      lanes_ = magnitudes > lanes_ ? magnitudes : lanes_;
    }
  }

  void see(const float number) {
    const std::uint32_t magnitude = blockwise::magnitude_bits(number);
    if (magnitude > lanes_[0]) lanes_[0] = magnitude;
  }

  NADAM_XLA_INLINE std::uint32_t bits() const {
    std::uint32_t largest = 0;
    for (int i = 0; i < kWordsOfVector; ++i) largest = lanes_[i] > largest ? lanes_[i] : largest;
    return largest;
  }

 private:
  Words lanes_ = {};
};

}  // namespace
}  // namespace nadam_xla::cpu
