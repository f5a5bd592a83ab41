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
  const bool is_of_rule = number < kRuleStates;
  const Stream first = is_of_rule ? Stream::kMu : Stream::kMaster;
  return static_cast<Stream>(static_cast<int>(first) + number - (is_of_rule ? 0 : kRuleStates));
}

// The stream whose new values, or whose change, a result holds.
NADAM_XLA_INLINE constexpr Stream stream_of_result(const int result) {
  return result == 0 ? Stream::kParams : state(result - 1);
}

inline constexpr const char* name_of(const Stream stream) {
  return kStreamNames[static_cast<int>(stream)];
}

// The stream's bit in the number by which a program says which streams there are. It stays what it
// is: those of the rule count from 0, and what is stored beside them from 16.
NADAM_XLA_INLINE constexpr int bit_of(const Stream stream) {
  const auto number = static_cast<int>(stream);
  return number < kRuleStreams ? number : 16 + number - kRuleStreams;
}

// The streams of one call, as the bits of a number.
class StreamSet {
 public:
  // Gradients and moments. All others may be absent.
  static constexpr StreamSet required() { return StreamSet(0b1110); }
  static constexpr StreamSet with_params() { return StreamSet(0b1111); }
  static constexpr StreamSet known() {
    std::int64_t bits = 0;
    for (int i = 0; i < kStreams; ++i) bits |= std::int64_t{1} << bit_of(static_cast<Stream>(i));
    return StreamSet(bits);
  }

  explicit constexpr StreamSet(const std::int64_t bits) : bits_(bits) {}

  NADAM_XLA_INLINE constexpr bool has(const Stream stream) const {
    return bits_ >> bit_of(stream) & 1;
  }

  constexpr bool is_known() const {
    const bool has_required = (bits_ & required().bits_) == required().bits_;
    return has_required && (bits_ & ~known().bits_) == 0;
  }

  constexpr std::size_t count() const { return before(kStreams); }

  // How many results a leaf has: one for the parameters, or their change, and one for each state.
  NADAM_XLA_INLINE constexpr int results() const {
    return has(Stream::kMaster) ? kResults : kRuleResults;
  }

  // Which of those that are there it is, counted from zero.
  constexpr std::size_t place(const Stream stream) const {
    return before(static_cast<int>(stream));
  }

 private:
  // How many of the first streams are there.
  constexpr std::size_t before(const int streams) const {
    std::size_t number = 0;
    for (int i = 0; i < streams; ++i) number += has(static_cast<Stream>(i));
    return number;
  }

  std::int64_t bits_;
};

}  // namespace nadam_xla
