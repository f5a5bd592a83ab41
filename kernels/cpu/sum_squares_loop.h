// The sum of squares of a stretch of memory. Part of loops.cpp, whose rules hold here.
#pragma once

#include <cstdint>

#include "kernels/storage.h"

namespace nadam_xla::cpu {
namespace {

// In double: a float's square is exact there and cannot overflow. The lanes are as many on every
// machine and are added up in one order, so that all instruction sets give the same bits.
class Lanes {
 public:
  static constexpr std::int64_t kCount = 32;

  // One square to each lane.
  template <typename T>
  NADAM_XLA_INLINE void add(const T* const x) {
#pragma omp simd
    for (std::int64_t lane = 0; lane < kCount; ++lane) add_to(lane, x[lane]);
  }

  // To the first lanes alone.
  template <typename T>
  NADAM_XLA_INLINE void add(const T* const x, const std::int64_t length) {
    for (std::int64_t lane = 0; lane < length; ++lane) add_to(lane, x[lane]);
  }

  NADAM_XLA_INLINE double total() {
    for (std::int64_t width = kCount / 2; width != 0; width /= 2) {
      for (std::int64_t lane = 0; lane < width; ++lane) lanes_[lane] += lanes_[lane + width];
    }
    return lanes_[0];
  }

 private:
  NADAM_XLA_INLINE void add_to(const std::int64_t lane, const double value) {
    lanes_[lane] += value * value;
  }

  double lanes_[kCount] = {};
};

template <typename T>
NADAM_XLA_INLINE double sum_squares_of(const T* const x, const std::int64_t length) {
  Lanes lanes;
  const std::int64_t whole = length / Lanes::kCount * Lanes::kCount;
  for (std::int64_t i = 0; i < whole; i += Lanes::kCount) lanes.add(x + i);
  lanes.add(x + whole, length - whole);
  return lanes.total();
}

// Decoding is a loop of its own: one over numbers of 16 and of 64 bits side by side is slower.
template <typename Number>
NADAM_XLA_INLINE double sum_squares_decoded(const std::uint16_t* const x, const std::int64_t length,
                                            const Number& number) {
  constexpr std::int64_t kBlock = 4 * Lanes::kCount;
  Lanes lanes;
  float block[kBlock];
  const std::int64_t whole = length / kBlock * kBlock;
  for (std::int64_t i = 0; i < whole; i += kBlock) {
#pragma omp simd
    for (std::int64_t k = 0; k < kBlock; ++k) block[k] = number(x[i + k]);
    for (std::int64_t k = 0; k < kBlock; k += Lanes::kCount) lanes.add(block + k);
  }
  for (std::int64_t i = whole; i < length; ++i) block[i - whole] = number(x[i]);
  std::int64_t left = length - whole;
  const float* at = block;
  for (; left >= Lanes::kCount; left -= Lanes::kCount, at += Lanes::kCount) lanes.add(at);
  lanes.add(at, left);
  return lanes.total();
}

template <typename T>
double sum_squares_of_stretch(const void* const x, const Storage stored,
                              const std::int64_t length) {
  const auto* const narrow = static_cast<const std::uint16_t*>(x);
  switch (stored) {
    case Storage::kBF16:
      return sum_squares_decoded(narrow, length,
                                 [](const std::uint16_t of) { return of_bfloat16(of); });
    case Storage::kF16:
      return sum_squares_decoded(narrow, length,
                                 [](const std::uint16_t of) { return of_float16(of); });
    default:
      return sum_squares_of(static_cast<const T*>(x), length);
  }
}

}  // namespace
}  // namespace nadam_xla::cpu
