// Which arrays the leaves of an update consist of, and in which order they travel.
// nadam_xla/streams.py has the same.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/host_device.h"

namespace nadam_xla {

// All that a leaf may have, in the order of travel: one stream of all leaves, then the next.
enum class Stream { kParams, kGrads, kMu, kNu, kAverage, kMaster, kMuScales, kNuScales };

inline constexpr const char* kStreamNames[] = {
    "params", "grads", "mu", "nu", "average", "master", "mu_scales", "nu_scales",
};
inline constexpr int kAllStreams = sizeof(kStreamNames) / sizeof(kStreamNames[0]);

// The first of the states, mu and nu, may be stored in codes. Each then has scales: a number for
// each block of a row. They stand behind all streams that have a number for each element.
inline constexpr int kMoments = 2;
inline constexpr int kStreams = kAllStreams - kMoments;

// The optimizer's state. Each of its streams has a result of its own, behind that of the
// parameters.
inline constexpr int kStates = 4;
inline constexpr int kResults = 1 + kStates;
inline constexpr int kAllResults = kResults + kAllStreams - kStreams;

// The rule knows the streams before the master weights, which are a matter of how parameters are
// stored; and the states among them.
inline constexpr int kRuleStreams = 5;
inline constexpr int kRuleStates = 3;
inline constexpr int kRuleResults = 1 + kRuleStates;

// Whether an average of the parameters is updated with them. It is the last stream of the rule, so
// that loops without it are as if there were none.
enum class Averaging { kOff, kOn };

NADAM_XLA_INLINE constexpr int rule_streams(const Averaging averaging) {
  return kRuleStreams - (averaging == Averaging::kOff);
}
NADAM_XLA_INLINE constexpr int rule_states(const Averaging averaging) {
  return kRuleStates - (averaging == Averaging::kOff);
}
NADAM_XLA_INLINE constexpr int rule_results(const Averaging averaging) {
  return 1 + rule_states(averaging);
}

NADAM_XLA_INLINE constexpr Stream state(const int number) {
  switch (number) {
    case 0:
      return Stream::kMu;
    case 1:
      return Stream::kNu;
    case 2:
      return Stream::kAverage;
    default:
      return static_cast<Stream>(static_cast<int>(Stream::kMaster) + number - kRuleStates);
  }
}

// The stream whose new values, or whose change, a result holds.
NADAM_XLA_INLINE constexpr Stream stream_of_result(const int result) {
  return result == 0 ? Stream::kParams : state(result - 1);
}

NADAM_XLA_INLINE constexpr int result_of(const Stream state) {
  int result = 1;
  while (stream_of_result(result) != state) ++result;
  return result;
}

// Of a moment, the scales that it has where it is stored in codes.
NADAM_XLA_INLINE constexpr Stream scales_of(const int number) {
  return static_cast<Stream>(static_cast<int>(Stream::kMuScales) + number);
}

inline constexpr const char* name_of(const Stream stream) {
  return kStreamNames[static_cast<int>(stream)];
}

// The stream's bit in the number by which a program says which streams there are. It stays what it
// is: those of the rule count from 0, and what is stored beside them from 16.
NADAM_XLA_INLINE constexpr int bit_of(const Stream stream) {
  switch (stream) {
    case Stream::kParams:
      return 0;
    case Stream::kGrads:
      return 1;
    case Stream::kMu:
      return 2;
    case Stream::kNu:
      return 3;
    case Stream::kAverage:
      return 4;
    case Stream::kMaster:
      return 16;
    case Stream::kMuScales:
      return 17;
    default:  // kNuScales
      return 18;
  }
}

// The streams of one call, as the bits of a number.
class StreamSet {
 public:
  // Gradients and moments. All others may be absent.
  static constexpr StreamSet required() { return StreamSet(0b1110); }
  static constexpr StreamSet with_params() { return StreamSet(0b1111); }
  static constexpr StreamSet known() {
    std::int64_t bits = 0;
    for (int i = 0; i < kAllStreams; ++i) bits |= std::int64_t{1} << bit_of(static_cast<Stream>(i));
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

  // Whether a moment is stored in codes.
  NADAM_XLA_INLINE constexpr bool has_scales() const {
    return has(Stream::kMuScales) || has(Stream::kNuScales);
  }

  constexpr std::size_t count() const { return before(kAllStreams); }

  // A leaf has a result for the parameters, or their change, and one for each state.
  NADAM_XLA_INLINE constexpr bool has_result(const int result) const {
    return result == 0 || has(stream_of_result(result));
  }
  constexpr std::size_t count_results() const { return results_before(kAllResults); }
  // Which of those that are there it is, counted from zero.
  constexpr std::size_t place_of_result(const int result) const { return results_before(result); }

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

  constexpr std::size_t results_before(const int results) const {
    std::size_t number = 0;
    for (int i = 0; i < results; ++i) number += has_result(i);
    return number;
  }

  std::int64_t bits_;
};

}  // namespace nadam_xla
