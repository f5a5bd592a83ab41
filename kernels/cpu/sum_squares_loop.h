// The sum of squares of a stretch of memory. Part of loops.cpp, whose rules hold here.
#pragma once

#include <cstdint>

#include "kernels/cpu/prefetch.h"
#include "kernels/storage.h"

namespace nadam_xla::cpu {
namespace {

// In double: a float's square is exact there and cannot overflow. The lanes are as many on every
// machine and are added up in one order, so that all instruction sets give the same bits.
class Lanes {
 public:
  static constexpr std::int64_t kCount = 32;
  static constexpr std::int64_t kHalf = kCount / 2;

  // One square to each lane, to the first half of them and to the second.
  template <typename T>
  NADAM_XLA_INLINE void add(const T* const first, const T* const second) {
#pragma omp simd
    for (std::int64_t lane = 0; lane < kHalf; ++lane) add_to(lane, first[lane]);
#pragma omp simd
    for (std::int64_t lane = 0; lane < kHalf; ++lane) add_to(kHalf + lane, second[lane]);
  }

  // To the first lanes alone.
  template <typename T>
  NADAM_XLA_INLINE void add(const T* const x, const std::int64_t length) {
    for (std::int64_t lane = 0; lane < length; ++lane) add_to(lane, x[lane]);
  }

  NADAM_XLA_INLINE double total() {
    for (std::int64_t width = kHalf; width != 0; width /= 2) {
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

// A stretch is read in two places at once, at its beginning and from its middle on: memory that is
// read in one alone comes at half the speed, for the hardware fetches ahead within a page.
struct HalvesOfStretch {
  explicit HalvesOfStretch(const std::int64_t of_both)
      : length(of_both / Lanes::kCount * Lanes::kHalf), left_over(of_both - 2 * length) {}

  std::int64_t length;  // of each, a whole number of rounds of the lanes
  std::int64_t left_over;
};

template <typename T>
NADAM_XLA_INLINE double sum_squares_of(const T* const x, const std::int64_t length) {
  constexpr std::int64_t kBytes = Lanes::kHalf * static_cast<std::int64_t>(sizeof(T));
  const HalvesOfStretch halves(length);
  const T* const second = x + halves.length;
  Lanes lanes;
  for (std::int64_t i = 0; i < halves.length; i += Lanes::kHalf) {
    prefetch(x + i, kBytes);
    prefetch(second + i, kBytes);
    lanes.add(x + i, second + i);
  }
  lanes.add(second + halves.length, halves.left_over);
  return lanes.total();
}

// Decoding is a loop of its own: one over numbers of 16 and of 64 bits side by side is slower.
template <typename Number>
NADAM_XLA_INLINE double sum_squares_decoded(const std::uint16_t* const x, const std::int64_t length,
                                            const Number& number) {
  constexpr std::int64_t kBlock = 4 * Lanes::kHalf;  // of each half
  constexpr std::int64_t kBytes = kBlock * static_cast<std::int64_t>(sizeof(std::uint16_t));
  const HalvesOfStretch halves(length);
  const std::uint16_t* const second = x + halves.length;
  const std::int64_t whole = halves.length / kBlock * kBlock;
  Lanes lanes;
  float of_first[kBlock], of_second[kBlock];
  for (std::int64_t i = 0; i < whole; i += kBlock) {
    prefetch(x + i, kBytes);
    prefetch(second + i, kBytes);
#pragma omp simd
    for (std::int64_t k = 0; k < kBlock; ++k) of_first[k] = number(x[i + k]);
#pragma omp simd
    for (std::int64_t k = 0; k < kBlock; ++k) of_second[k] = number(second[i + k]);
    for (std::int64_t k = 0; k < kBlock; k += Lanes::kHalf) lanes.add(of_first + k, of_second + k);
  }
  const std::int64_t rest = halves.length - whole;
  for (std::int64_t k = 0; k < rest; ++k) of_first[k] = number(x[whole + k]);
  for (std::int64_t k = 0; k < rest; ++k) of_second[k] = number(second[whole + k]);
  for (std::int64_t k = 0; k < rest; k += Lanes::kHalf) lanes.add(of_first + k, of_second + k);
  const std::uint16_t* const end = second + halves.length;
  for (std::int64_t k = 0; k < halves.left_over; ++k) of_first[k] = number(end[k]);
  lanes.add(of_first, halves.left_over);
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
