// Numbers that a seed determines, on every machine alike.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

namespace nadam_xla::native_boundary {

class Random {
 public:
  explicit Random(const std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() {  // SplitMix64
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  // One of 0 ... n - 1.
  std::int64_t below(const std::int64_t n) {
    return static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(n));
  }
  bool once_in(const std::int64_t n) { return below(n) == 0; }
  template <typename T>
  T one_of(const std::initializer_list<T> choices) {
    return choices.begin()[below(static_cast<std::int64_t>(choices.size()))];
  }
  double between(const double low, const double high) {
    return low + (high - low) * static_cast<double>(bits() >> 11) * 0x1p-53;
  }

 private:
  std::uint64_t state_;
};

}  // namespace nadam_xla::native_boundary
