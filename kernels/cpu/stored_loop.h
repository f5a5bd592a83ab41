// The update of a stretch that is not stored as the rule computes: step by step, each decoded,
// updated, and encoded. Part of loops.cpp, whose rules hold here.
//
// So the ways of storing add up: one decoder and one encoder each, and one loop over them.
#pragma once

#include <utility>

#include "kernels/cpu/codec.h"
#include "kernels/cpu/draws.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/mixtures.h"
#include "kernels/cpu/prefetch.h"
#include "kernels/cpu/rare_numbers.h"
#include "kernels/cpu/update_loop.h"

namespace nadam_xla::cpu {
namespace {

void copy(const void* const from, void* const to, const std::int64_t bytes) {
  if (from == to) return;
  const auto* const source = static_cast<const char*>(from);
  auto* const target = static_cast<char*>(to);
  for (std::int64_t i = 0; i < bytes; ++i) target[i] = source[i];
}

// The numbers of a step as the rule reads and writes them.
template <typename T, Averaging kAveraging>
struct alignas(64) StepNumbers {
  T in[rule_streams(kAveraging)][kStep];
  T out[rule_results(kAveraging)][kStep];
};

template <Averaging kAveraging>
using StreamNumbers = std::make_index_sequence<rule_streams(kAveraging)>;
template <Averaging kAveraging>
using StateNumbers = std::make_index_sequence<rule_states(kAveraging)>;

// A step of a leaf.
struct Step {
  const Mixture& mixture;
  const Leaf& leaf;
  std::int64_t first;  // its first element

  NADAM_XLA_INLINE const void* in(const Stream stream) const {
    return advanced(leaf.in[static_cast<int>(stream)], first * size_of(mixture.stored(stream)));
  }
  NADAM_XLA_INLINE void* out(const int result, const Storage storage) const {
    return advanced(leaf.out[result], first * size_of(storage));
  }
  NADAM_XLA_INLINE void* out_of_master() const { return out(kResults - 1, mixture.master); }
};

NADAM_XLA_INLINE void prefetch_stream(const Step& step, const Stream stream) {
  prefetch(step.in(stream), kStep * size_of(step.mixture.stored(stream)));
}

template <typename T>
NADAM_XLA_INLINE void decode_stream(const Step& step, const Stream stream, T* const to) {
  if (is_codes(step.mixture.stored(stream))) return;  // blockwise_loop.h has them
  prefetch_stream(step, stream);
  if (stream != Stream::kParams || !step.mixture.has_master) {
    return decode(step.mixture.stored(stream), step.in(stream), to);
  }
  prefetch_stream(step, Stream::kMaster);
  decode_with_master(step.in(stream), step.mixture.master, step.in(Stream::kMaster), to);
}

// Of parameters with a remainder, which may be stale.
template <typename T>
void decode_rare_params(const Step& step, T* const to) {
  const Mixture& mixture = step.mixture;
  if (!mixture.has_master) return;
  decode_rare(step.in(Stream::kParams), mixture.master, step.in(Stream::kMaster), to);
}

template <typename T, Averaging kAveraging, std::size_t... kStream>
NADAM_XLA_INLINE void decode_streams(const Step& step, StepNumbers<T, kAveraging>& numbers,
                                     std::index_sequence<kStream...>) {
  (decode_stream(step, static_cast<Stream>(kStream), numbers.in[kStream]), ...);
}

template <typename T>
NADAM_XLA_INLINE Halves without_signs(const T* const numbers, const std::int64_t i) {
  alignas(64) float copy[kStep];
  const Halves upper = halves_at_pair(floats_of(numbers, copy), i).upper;
  return upper + upper;
}

// Whether there are numbers that the encoders of vectors do not know. To the nearest that is NaN
// alone, and where it is in a moment, it is in the first result, too.
template <typename T, Averaging kAveraging, std::size_t... kState>
NADAM_XLA_INLINE bool has_rare_numbers(const Mixture& mixture,
                                       const StepNumbers<T, kAveraging>& numbers,
                                       std::index_sequence<kState...>) {
  Halves largest = without_signs(numbers.out[0], 0);
  for (std::int64_t i = kWordsOfVector; i < kPairs; i += kWordsOfVector) {
    largest = larger_of(largest, without_signs(numbers.out[0], i));
  }
  for (std::int64_t i = 0; i < kPairs; i += kWordsOfVector) {
    ((largest = mixture.may_be_rare(state(kState))
                    ? larger_of(largest, without_signs(numbers.out[1 + kState], i))
                    : largest),
     ...);
  }
  return any_at_end(largest);
}

// How a number or a parameter with a master is encoded, in steps that have rare numbers and others.
template <bool kRare, typename T>
NADAM_XLA_INLINE void encode_numbers(const Storage storage, const T* const from, void* const to,
                                     const std::uint32_t* const draws) {
  return kRare ? encode_rare(storage, from, to, draws) : encode(storage, from, to, draws);
}

template <bool kRare, typename T>
NADAM_XLA_INLINE void encode_params(const Step& step, const Storage storage, const T* const from,
                                    void* const to, const std::uint32_t* const draws) {
  const Mixture& mixture = step.mixture;
  if (!mixture.has_master) return encode_numbers<kRare>(storage, from, to, draws);
  const auto encoder = kRare ? &encode_rare_with_master<T> : &encode_with_master<T>;
  encoder(storage, mixture.master, from, to, step.out_of_master(), draws);
}

// The parameters as they would be stored, less as they were.
template <bool kRare, typename T>
void encode_change_of_stored(const Step& step, const T* const params,
                             const std::uint32_t* const draws) {
  const Mixture& mixture = step.mixture;
  alignas(64) std::uint16_t stored[kStep];
  alignas(64) T before[kStep];
  alignas(64) T after[kStep];
  encode_params<kRare>(step, mixture.params, params, stored, draws);
  decode(mixture.params, stored, after);
  decode(mixture.params, step.in(Stream::kParams), before);
#pragma omp simd
  for (std::int64_t i = 0; i < kStep; ++i) after[i] -= before[i];
  encode_numbers<kRare>(mixture.first, after, step.out(0, mixture.first), nullptr);
}

template <bool kRare, typename T, Averaging kAveraging>
NADAM_XLA_INLINE void encode_state(const Step& step, const StepNumbers<T, kAveraging>& numbers,
                                   const StepDraws& draws, const int number) {
  const Storage storage = step.mixture.stored(state(number));
  if (is_codes(storage)) return;
  const bool is_drawn = number < kMoments && step.mixture.draws_moments();
  encode_numbers<kRare>(storage, numbers.out[1 + number], step.out(1 + number, storage),
                        is_drawn ? draws.moments[number] : nullptr);
}

template <bool kRare, typename T, Averaging kAveraging, std::size_t... kState>
NADAM_XLA_INLINE void encode_results(const Step& step, const StepNumbers<T, kAveraging>& numbers,
                                     const StepDraws& draws, std::index_sequence<kState...>) {
  const Mixture& mixture = step.mixture;
  const std::uint32_t* const of_params = mixture.draws_params() ? draws.params : nullptr;
  if (mixture.is_change_of_stored) {
    encode_change_of_stored<kRare>(step, numbers.out[0], of_params);
  } else {
    encode_params<kRare>(step, mixture.first, numbers.out[0], step.out(0, mixture.first),
                         of_params);
  }
  (encode_state<kRare>(step, numbers, draws, kState), ...);
}

// What the rule reads and writes of a step.
template <typename T, Averaging kAveraging>
NADAM_XLA_INLINE Streams<T, kAveraging> streams_of(StepNumbers<T, kAveraging>& numbers) {
  Streams<T, kAveraging> streams;
  for (int i = 0; i < rule_streams(kAveraging); ++i) streams.in[i] = numbers.in[i];
  for (int i = 0; i < rule_results(kAveraging); ++i) streams.out[i] = numbers.out[i];
  streams.length = kStep;
  return streams;
}

// A step that has rare numbers, from the beginning.
template <Returns kReturns, Averaging kAveraging, typename T>
void redo_rare_step(const Row<T>& row, const Step& step, const StepDraws& draws) {
  StepNumbers<T, kAveraging> numbers;
  decode_streams(step, numbers, StreamNumbers<kAveraging>());
  decode_rare_params(step, numbers.in[static_cast<int>(Stream::kParams)]);
  update_elements<kReturns, Terms::kDecayAndClamp>(row, streams_of(numbers), 0, kStep);
  encode_results<true>(step, numbers, draws, StateNumbers<kAveraging>());
}

// The stretch has whole steps.
template <Returns kReturns, Terms kTerms, Averaging kAveraging, typename T>
NADAM_XLA_INLINE void run_steps(const UpdateStretch<T>& s, const Mixture& mixture) {
  const Row<T> row = s.row;
  const Leaf leaf = s.leaf;
  StepNumbers<T, kAveraging> numbers;
  const Streams<T, kAveraging> streams = streams_of(numbers);
  Draws drawn(mixture, s.key);
  for (std::int64_t first = 0; first < leaf.length; first += kStep) {
    const Step step{mixture, leaf, first};
    const StepDraws draws = drawn.of_step(mixture, s.element_of_step(first));
    decode_streams(step, numbers, StreamNumbers<kAveraging>());
    update_elements<kReturns, kTerms>(row, streams, 0, kStep);
    if (has_rare_numbers(mixture, numbers, StateNumbers<kAveraging>())) {
      // A copy: what has an address stays out of registers.
      const StepDraws own = draws;
      redo_rare_step<kReturns, kAveraging>(row, step, own);
    } else {
      encode_results<false>(step, numbers, draws, StateNumbers<kAveraging>());
    }
  }
}

template <const Mixture& kMixture, Terms kTerms>
void run_known(const UpdateStretch<float>& s) {
  run_steps<Returns::kParams, kTerms, Averaging::kOff>(s, kMixture);
}

using KnownLoop = void (*)(const UpdateStretch<float>&);

template <Terms kTerms, const Mixture&... kMixture>
KnownLoop known_loop_of(const Mixture& mixture) {
  KnownLoop loop = nullptr;
  ((loop = mixture == kMixture ? &run_known<kMixture, kTerms> : loop), ...);
  return loop;
}

template <Terms kTerms>
KnownLoop known_loop(const Mixture& mixture) {
  return known_loop_of<kTerms, kNarrowMu, kNarrowStates, kNarrowStatesDrawn, kWideParams,
                       kWideParamsDrawn, kWideStates, kNarrow, kNarrowDrawn, kFloat16,
                       kFloat16Drawn, kRemainder, kRemainderDrawn, kCorrectionDrawn>(mixture);
}

KnownLoop known_loop(const Row<float>& row, const Mixture& mixture) {
  if constexpr (kHasKnownLoops) {
    const Terms terms = terms_of(row);
    if (terms == Terms::kNone && is_plain(row)) return known_loop<Terms::kPlain>(mixture);
    if (terms != Terms::kDecayAndClamp) return known_loop<Terms::kDecay>(mixture);
  }
  return nullptr;
}

// The loop of the mixture where it has one, or else that of all mixtures, which computes every
// term.
template <Returns kReturns, Averaging kAveraging, typename T>
void run_mixture(const UpdateStretch<T>& s, const Mixture& mixture) {
  if constexpr (sizeof(T) == sizeof(float) && kReturns == Returns::kParams &&
                kAveraging == Averaging::kOff) {
    if (const KnownLoop loop = known_loop(s.row, mixture); loop != nullptr) return loop(s);
  }
  run_steps<kReturns, Terms::kDecayAndClamp, kAveraging>(s, mixture);
}

// The memory of one step, for the end of a stretch that has no whole step left.
class LastStep {
 public:
  // Of a stream that a call lacks no memory is read: an entry of stacks has none of it.
  LastStep(const Leaf& leaf, const StreamSet streams) : leaf_(leaf), whole_(leaf) {
    for (int i = 0; i < kStreams; ++i) {
      if (streams.has(static_cast<Stream>(i))) {
        copy(leaf.in[i], in_[i], leaf.length * size_of(leaf.stored[i]));
      }
      whole_.in[i] = in_[i];
    }
    for (int i = 0; i < kResults; ++i) whole_.out[i] = out_[i];
    whole_.length = kStep;
  }

  const Leaf& whole() const { return whole_; }
  void copy_back(const StreamSet streams) const {
    for (int i = 0; i < kResults; ++i) {
      if (!streams.has_result(i)) continue;
      copy(out_[i], leaf_.out[i], leaf_.length * size_of(leaf_.storage_of_result(i)));
    }
  }

 private:
  const Leaf& leaf_;
  Leaf whole_;
  alignas(64) double in_[kStreams][kStep] = {};
  alignas(64) double out_[kResults][kStep];
};

template <Returns kReturns, Averaging kAveraging, typename T>
void run_stored(const UpdateStretch<T>& s, const bool is_change_of_stored) {
  const Mixture mixture = mixture_of(s, is_change_of_stored);
  const std::int64_t rest = s.leaf.length % kStep, whole = s.leaf.length - rest;
  UpdateStretch<T> part = s;
  part.leaf.length = whole;
  run_mixture<kReturns, kAveraging>(part, mixture);
  if (rest == 0) return;
  const Leaf end = part_of(s.leaf, whole, rest);
  const LastStep last(end, s.streams);
  part.leaf = last.whole();
  part.first = s.first + whole;
  run_mixture<kReturns, kAveraging>(part, mixture);
  last.copy_back(s.streams);
}

// A change that is returned is that of the stored parameters, where those are not just the nearest
// to what the rule says: added to them, it gives what the master or the random number says.
template <typename T>
bool returns_change_of_stored(const UpdateStretch<T>& s) {
  const bool is_drawn =
      s.rounding == Rounding::kStochastic && is_narrow(s.leaf.storage(Stream::kParams));
  return s.returns == Returns::kChange && s.streams.has(Stream::kParams) &&
         (s.streams.has(Stream::kMaster) || is_drawn);
}

template <Averaging kAveraging, typename T>
void update_stored(const UpdateStretch<T>& s) {
  const bool is_change_of_stored = returns_change_of_stored(s);
  if (s.returns == Returns::kParams || is_change_of_stored) {
    run_stored<Returns::kParams, kAveraging>(s, is_change_of_stored);
  } else {
    run_stored<Returns::kChange, kAveraging>(s, false);
  }
}

}  // namespace
}  // namespace nadam_xla::cpu
