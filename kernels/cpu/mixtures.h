// In which ways the arrays of a leaf are stored together. Part of loops.cpp, whose rules hold here.
#pragma once

#include "kernels/cpu/loops.h"
#include "kernels/storage.h"
#include "kernels/update_call.h"

namespace nadam_xla::cpu {
namespace {

NADAM_XLA_INLINE constexpr bool is_narrow(const Storage storage) {
  return storage == Storage::kBF16 || storage == Storage::kF16;
}

// Of a stream that is not there, the storage says nothing.
struct Mixture {
  Storage params, grads, mu, nu, first;
  bool is_stochastic;  // Something is drawn; not what codes draw, which is always.
  bool has_master;
  Storage master = Storage::kF32;
  // The first result is the change of the parameters: as the rule says, which is not drawn; or of
  // what is stored.
  bool is_change_of_rule = false;
  bool is_change_of_stored = false;
  Storage average = Storage::kF32;

  NADAM_XLA_INLINE constexpr Storage stored(const Stream stream) const {
    switch (stream) {
      case Stream::kParams:
        return params;
      case Stream::kGrads:
        return grads;
      case Stream::kMu:
        return mu;
      case Stream::kNu:
        return nu;
      case Stream::kAverage:
        return average;
      default:
        return master;
    }
  }

  constexpr bool draws_moments() const { return is_stochastic && (is_narrow(mu) || is_narrow(nu)); }
  constexpr bool draws_params() const {
    return is_stochastic && is_narrow(params) && !is_change_of_rule &&
           (!has_master || master == Storage::kRemainder8);
  }

  // Whether a state may have numbers that are not encoded in vectors while the first result has
  // none.
  constexpr bool may_be_rare(const Stream state) const {
    return stored(state) == Storage::kBF16 && (is_stochastic || state == Stream::kAverage);
  }

  constexpr bool operator==(const Mixture& other) const {
    return params == other.params && grads == other.grads && mu == other.mu && nu == other.nu &&
           first == other.first && is_stochastic == other.is_stochastic &&
           has_master == other.has_master && (!has_master || master == other.master) &&
           is_change_of_rule == other.is_change_of_rule &&
           is_change_of_stored == other.is_change_of_stored;
  }
};

template <typename T>
Mixture mixture_of(const UpdateStretch<T>& s, const bool is_change_of_stored) {
  Mixture mixture{s.leaf.storage(Stream::kParams),
                  s.leaf.storage(Stream::kGrads),
                  s.leaf.storage(Stream::kMu),
                  s.leaf.storage(Stream::kNu),
                  s.leaf.stored_first,
                  s.rounding == Rounding::kStochastic,
                  s.streams.has(Stream::kMaster),
                  s.leaf.storage(Stream::kMaster),
                  s.returns == Returns::kChange && !is_change_of_stored,
                  is_change_of_stored,
                  s.leaf.storage(Stream::kAverage)};
  mixture.is_stochastic = mixture.draws_moments() || mixture.draws_params();
  return mixture;
}

// Those that have a loop of their own, which docs/storage.md has in its table. Where the storages
// are known only as the loop runs, a third more time goes into finding the decoders and encoders.
// Processors with AVX2 have been made since 2013: what is for older ones has no such loops, which
// would be most of its code.
#ifdef NADAM_XLA_GENERAL_LOOPS
constexpr bool kHasKnownLoops = false;
#else
constexpr bool kHasKnownLoops = true;
#endif

constexpr Storage kWide = Storage::kF32, kHalf = Storage::kBF16;

constexpr Mixture kNarrowMu{kWide, kWide, kHalf, kWide, kWide, false, false};
constexpr Mixture kNarrowStates{kWide, kWide, kHalf, kHalf, kWide, false, false};
constexpr Mixture kNarrowStatesDrawn{kWide, kWide, kHalf, kHalf, kWide, true, false};
constexpr Mixture kWideParams{kWide, kHalf, kHalf, kHalf, kWide, false, false};
constexpr Mixture kWideParamsDrawn{kWide, kHalf, kHalf, kHalf, kWide, true, false};
constexpr Mixture kWideStates{kHalf, kHalf, kWide, kWide, kHalf, false, false};
constexpr Mixture kNarrow{kHalf, kHalf, kHalf, kHalf, kHalf, false, false};
constexpr Mixture kNarrowDrawn{kHalf, kHalf, kHalf, kHalf, kHalf, true, false};
constexpr Mixture kFloat16{Storage::kF16, Storage::kF16, Storage::kF16, Storage::kF16,
                           Storage::kF16, false,         false};
constexpr Mixture kFloat16Drawn{Storage::kF16, Storage::kF16, Storage::kF16, Storage::kF16,
                                Storage::kF16, true,          false};
constexpr Mixture kRemainder{kHalf, kHalf, kHalf, kHalf, kHalf, false, true, Storage::kRemainder16};
constexpr Mixture kRemainderDrawn{kHalf, kHalf, kHalf, kHalf,
                                  kHalf, true,  true,  Storage::kRemainder16};
constexpr Mixture kCorrectionDrawn{kHalf, kHalf, kHalf, kHalf,
                                   kHalf, true,  true,  Storage::kRemainder8};

// Moments in codes.
constexpr Storage kSigned = Storage::kBlock8Signed, kUnsigned = Storage::kBlock8Unsigned;

constexpr Mixture kCodes{kHalf, kHalf, kSigned, kUnsigned, kHalf, false, false};
constexpr Mixture kCodesDrawn{kHalf, kHalf, kSigned, kUnsigned, kHalf, true, false};
constexpr Mixture kCodesOfWide{kWide, kWide, kSigned, kUnsigned, kWide, false, false};
constexpr Mixture kCodesOfWideParams{kWide, kHalf, kSigned, kUnsigned, kWide, false, false};
constexpr Mixture kCodesWithRemainder{kHalf, kHalf, kSigned, kUnsigned,
                                      kHalf, false, true,    Storage::kRemainder16};

}  // namespace
}  // namespace nadam_xla::cpu
