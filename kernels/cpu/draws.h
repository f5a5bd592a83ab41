// The random numbers of a block. Part of loops.cpp, whose rules hold here.
#pragma once

#include <cstdint>

#include "kernels/cpu/codec.h"
#include "kernels/random_bits.h"

namespace nadam_xla::cpu {
namespace {

// 16 bits for each element of a block, in pairs. Its first element is a multiple of eight.
void draw(std::uint32_t* const draws, const RandomKey& given, const std::int64_t first,
          const Draw what) {
  constexpr std::uint32_t kOctets = kBlock / 8;
  const RandomKey key = given;
  const auto octet = static_cast<std::uint64_t>(first) / 8;
  const auto lower = static_cast<std::uint32_t>(octet);
  const auto upper = static_cast<std::uint32_t>(octet >> 32);
#pragma omp simd
  for (std::uint32_t i = 0; i < kOctets; ++i) {
    const std::uint32_t counter = lower + i;
    const RandomWords drawn = random_words(key, {counter, upper + (counter < lower), what});
    draws[4 * i] = drawn.of[0];
    draws[4 * i + 1] = drawn.of[1];
    draws[4 * i + 2] = drawn.of[2];
    draws[4 * i + 3] = drawn.of[3];
  }
}

void swap_bytes(const std::uint32_t* const from, std::uint32_t* const to) {
#pragma omp simd
  for (std::int64_t i = 0; i < kHalf; ++i) {
    to[i] = (from[i] & 0x00ff00ff) << 8 | (from[i] >> 8 & 0x00ff00ff);
  }
}

}  // namespace
}  // namespace nadam_xla::cpu
