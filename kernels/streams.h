// Which arrays the leaves of an update consist of, and in which order they travel.
// nadam_xla/streams.py has the same.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nadam_xla {

// All that a leaf may have, in the order of travel: one stream of all leaves, then the next.
enum class Stream { kParams, kGrads, kMu, kNu };

inline constexpr const char* kStreamNames[] = {"params", "grads", "mu", "nu"};
inline constexpr int kStreams = sizeof(kStreamNames) / sizeof(kStreamNames[0]);

inline constexpr const char* name_of(const Stream stream) {
  return kStreamNames[static_cast<int>(stream)];
}

// The streams of one call, as the bits of a number.
class StreamSet {
 public:
  static constexpr StreamSet all() { return StreamSet((1 << kStreams) - 1); }

  explicit constexpr StreamSet(const std::int64_t bits) : bits_(bits) {}

  constexpr bool has(const Stream stream) const { return bits_ >> static_cast<int>(stream) & 1; }

  // The parameters may be absent, and nothing else.
  constexpr bool is_known() const { return (bits_ | 1) == all().bits_; }

  constexpr std::size_t count() const { return number_of(bits_); }

  // Which of those that are there it is, counted from zero.
  constexpr std::size_t place(const Stream stream) const {
    return number_of(bits_ & ((std::int64_t{1} << static_cast<int>(stream)) - 1));
  }

 private:
  static constexpr std::size_t number_of(std::int64_t bits) {
    std::size_t number = 0;
    for (; bits != 0; bits &= bits - 1) ++number;
    return number;
  }

  std::int64_t bits_;
};

}  // namespace nadam_xla
