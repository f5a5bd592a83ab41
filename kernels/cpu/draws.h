// The random numbers of a block. Part of loops.cpp, whose rules hold here.
#pragma once

#include <cstdint>

#include "kernels/cpu/codec.h"
#include "kernels/random_bits.h"

namespace nadam_xla::cpu {
namespace {

// As many elements as there are draws of at a time: those of fewer counters would not fill a
// vector.
constexpr std::int64_t kDrawn = 2 * kBlock;

// 16 bits for each of kDrawn elements, the first of which is a multiple of eight.
void draw(std::uint16_t* const draws, const RandomKey& given, const std::int64_t first,
          const Draw what) {
  constexpr std::int64_t kOctets = kDrawn / 8;
  const RandomKey key = given;
  const auto octet = static_cast<std::uint64_t>(first) / 8;
  std::uint32_t words[4 * kOctets];
#pragma omp simd
  for (std::int64_t i = 0; i < kOctets; ++i) {
    const RandomWords drawn = random_words(key, {octet + static_cast<std::uint64_t>(i), what});
    words[4 * i] = drawn.of[0];
    words[4 * i + 1] = drawn.of[1];
    words[4 * i + 2] = drawn.of[2];
    words[4 * i + 3] = drawn.of[3];
  }
#pragma omp simd
  for (std::int64_t i = 0; i < 4 * kOctets; ++i) {
    draws[2 * i] = static_cast<std::uint16_t>(words[i]);
    draws[2 * i + 1] = static_cast<std::uint16_t>(words[i] >> 16);
  }
}

void swap_bytes(const std::uint16_t* const from, std::uint16_t* const to) {
#pragma omp simd
  for (std::int64_t i = 0; i < kDrawn; ++i) {
    to[i] = static_cast<std::uint16_t>(swapped_bytes(from[i]));
  }
}

}  // namespace
}  // namespace nadam_xla::cpu
