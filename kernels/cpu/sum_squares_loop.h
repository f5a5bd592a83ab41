// The sum of squares of a stretch of memory. Part of loops.cpp, whose rules hold here.
#pragma once

#include <cstdint>

namespace nadam_xla::cpu {
namespace {

// In double: a float's square is exact there and cannot overflow. The lanes are as many on every
// machine and are added up in one order, so that all instruction sets give the same bits.
template <typename T>
double sum_squares_of_stretch(const T* const x, const std::int64_t length) {
  constexpr std::int64_t kLanes = 32;
  double lanes[kLanes] = {};
  const std::int64_t whole = length / kLanes * kLanes;
  for (std::int64_t i = 0; i < whole; i += kLanes) {
#pragma omp simd
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      const double value = x[i + lane];
      lanes[lane] += value * value;
    }
  }
  for (std::int64_t i = whole; i < length; ++i) {
    const double value = x[i];
    lanes[i - whole] += value * value;
  }
  for (std::int64_t width = kLanes / 2; width != 0; width /= 2) {
    for (std::int64_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

}  // namespace
}  // namespace nadam_xla::cpu
