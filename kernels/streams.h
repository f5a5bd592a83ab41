// Which arrays the leaves of an update consist of, and in which order they travel.
// nadam_xla/streams.py has the same.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/host_device.h"

namespace nadam_xla {

// All that a leaf may have, in the order of travel: one stream of all leaves, then the next.
enum class Stream { kParams, kGrads, kMu, kNu, kMaster };

inline constexpr const char* kStreamNames[] = {"params", "grads", "mu", "nu", "master"};
inline constexpr int kStreams = sizeof(kStreamNames) / sizeof(kStreamNames[0]);

// The optimizer's state. Each of its streams has a result of its own, behind that of the
// parameters.
inline constexpr int kStates = 3;
inline constexpr int kResults = 1 + kStates;

// The rule knows the streams before the master weights, which are a matter of how parameters are
// stored; and the states among them.
inline constexpr int kRuleStreams = 4;
inline constexpr int kRuleStates = 2;
inline constexpr int kRuleResults = 1 + kRuleStates;

NADAM_XLA_INLINE constexpr Stream state(const int number) {
  return static_cast<Stream>(static_cast<int>(Stream::kMu) + number);
}

// The stream whose new values, or whose change, a result holds.
NADAM_XLA_INLINE constexpr Stream stream_of_result(const int result) {
  return result == 0 ? Stream::kParams : state(result - 1);
}

inline constexpr const char* name_of(const Stream stream) {
  return kStreamNames[static_cast<int>(stream)];
}

// The streams of one call, as the bits of a number.
class StreamSet {
 public:
  // Gradients and states. All others may be absent.
  static constexpr StreamSet required() { return StreamSet(0b1110); }
  static constexpr StreamSet with_params() { return StreamSet(0b1111); }
  static constexpr StreamSet known() { return StreamSet((1 << kStreams) - 1); }

  explicit constexpr StreamSet(const std::int64_t bits) : bits_(bits) {}

  NADAM_XLA_INLINE constexpr bool has(const Stream stream) const {
    return bits_ >> static_cast<int>(stream) & 1;
  }

  constexpr bool is_known() const {
    const bool has_required = (bits_ & required().bits_) == required().bits_;
    return has_required && bits_ >> kStreams == 0;
  }

  constexpr std::size_t count() const { return number_of(bits_); }

  // How many results a leaf has: one for the parameters, or their change, and one for each state.
  NADAM_XLA_INLINE constexpr int results() const {
    return has(Stream::kMaster) ? kResults : kRuleResults;
  }

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
