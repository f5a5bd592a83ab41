// The update of leaves of which a moment is stored in codes: step by step, as stored_loop.h has it.
// Once a block is through, its scales are known, and with the steps of the next one go those in
// which its moments become codes. Part of loops.cpp, whose rules hold here.
#pragma once

#include <cstdint>

#include "kernels/blockwise.h"
#include "kernels/cpu/blockwise_codec.h"
#include "kernels/cpu/draws.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/mixtures.h"
#include "kernels/cpu/stored_loop.h"
#include "kernels/cpu/update_stretch.h"

namespace nadam_xla::cpu {
namespace {

using blockwise::Block;
using blockwise::block_at;

std::int64_t steps_of(const Block& block) { return (block.length + kStep - 1) / kStep; }

template <Averaging kAveraging>
NADAM_XLA_INLINE void decode_moments(const Step& step, const float* const factors,
                                     StepNumbers<float, kAveraging>& numbers) {
  for (int i = 0; i < kMoments; ++i) {
    const Storage storage = step.mixture.stored(state(i));
    if (!is_codes(storage)) continue;
    const auto stream = static_cast<int>(state(i));
    prefetch(step.in(state(i)), kStep);
    decode_codes(storage, step.in(state(i)), factors[i], numbers.in[stream]);
  }
}

// A step that has rare numbers, from the beginning.
template <Returns kReturns, Averaging kAveraging>
StepNumbers<float, kAveraging> redo_rare_step(const Row<float>& row, const Step& step,
                                              const float* const factors, const StepDraws& draws) {
  StepNumbers<float, kAveraging> numbers;
  decode_streams(step, numbers, StreamNumbers<kAveraging>());
  decode_moments(step, factors, numbers);
  decode_rare_params(step, numbers.in[static_cast<int>(Stream::kParams)]);
  update_elements<kReturns, Terms::kDecayAndClamp>(row, streams_of(numbers), 0, kStep);
  encode_results<true>(step, numbers, draws, StateNumbers<kAveraging>());
  return numbers;
}

// Updates a step and stores what is not in codes.
template <Returns kReturns, Terms kTerms, Averaging kAveraging>
NADAM_XLA_INLINE void update_step(const Row<float>& row, const Step& step,
                                  const float* const factors, const StepDraws& draws,
                                  StepNumbers<float, kAveraging>& numbers) {
  constexpr StateNumbers<kAveraging> kAllStates;
  decode_streams(step, numbers, StreamNumbers<kAveraging>());
  decode_moments(step, factors, numbers);
  update_elements<kReturns, kTerms>(row, streams_of(numbers), 0, kStep);
  if (has_rare_numbers(step.mixture, numbers, kAllStates)) {
    const StepDraws own = draws;
    numbers = redo_rare_step<kReturns, kAveraging>(row, step, factors, own);
  } else {
    encode_results<false>(step, numbers, draws, kAllStates);
  }
}

// The new moments of a block, and what makes codes of them.
struct alignas(64) NewMoments {
  float numbers[kMoments][blockwise::kBlock];
  float inverses[kMoments];

  template <Averaging kAveraging>
  NADAM_XLA_INLINE void keep(const Mixture& mixture, const StepNumbers<float, kAveraging>& from,
                             const std::int64_t step) {
    for (int i = 0; i < kMoments; ++i) {
      if (!is_codes(mixture.stored(state(i)))) continue;
      __builtin_memcpy(numbers[i] + step * kStep, from.out[1 + i], kStep * sizeof(float));
    }
  }
};

// The blocks of a stretch.
template <Returns kReturns, Averaging kAveraging>
class Blocks {
 public:
  Blocks(const BlockwiseStretch& stretch, const Mixture& mixture)
      : s_(stretch.of), scales_(stretch.scales), drawn_(mixture, s_.key) {
    of_codes_.begin(s_.key, Draw::kOfCodes);
  }

  template <Terms kTerms>
  NADAM_XLA_INLINE void run(const Mixture& mixture, const std::int64_t first,
                            const std::int64_t blocks) {
    Block before{};
    for (std::int64_t i = 0; i < blocks; ++i) {
      const Block block = block_at(scales_.columns, first + i);
      NewMoments& old = moments_[1 - i % 2];
      NewMoments& moments = moments_[i % 2];
      LargestMagnitude largest[kMoments];
      set_factors(mixture, block);
      const std::int64_t whole = run_both<kTerms>(mixture, before, old, block, moments, largest);
      encode_rest(mixture, before, whole, old);
      update_rest(mixture, block, whole, moments, largest);
      set_scales(mixture, block, largest, moments);
      before = block;
    }
    encode_rest(mixture, before, 0, moments_[(blocks - 1) % 2]);
  }

 private:
  // The steps that are whole ones in both blocks; returns how many.
  template <Terms kTerms>
  NADAM_XLA_INLINE std::int64_t run_both(const Mixture& mixture, const Block& before,
                                         const NewMoments& old, const Block& block,
                                         NewMoments& moments, LargestMagnitude* const largest) {
    const Row<float> row = s_.row;
    const Leaf leaf = s_.leaf;
    const float factors[kMoments] = {factors_[0], factors_[1]};
    LargestMagnitude magnitudes[kMoments];
    const std::int64_t shorter = before.length < block.length ? before.length : block.length;
    for (std::int64_t step = 0; step < shorter / kStep; ++step) {
      encode_whole(mixture, leaf, before, step, old);
      const std::int64_t first = block.first + step * kStep;
      const StepDraws draws = drawn_.of_step(mixture, first);
      StepNumbers<float, kAveraging> numbers;
      update_step<kReturns, kTerms>(row, Step{mixture, leaf, first}, factors, draws, numbers);
      for (int i = 0; i < kMoments; ++i) magnitudes[i].see_step(numbers.out[1 + i]);
      moments.keep(mixture, numbers, step);
    }
    for (int i = 0; i < kMoments; ++i) largest[i] = magnitudes[i];
    return shorter / kStep;
  }

  NADAM_XLA_INLINE void encode_whole(const Mixture& mixture, const Leaf& leaf, const Block& block,
                                     const std::int64_t step, const NewMoments& moments) {
    alignas(64) std::uint32_t draws[kMoments][kPairs];
    of_codes_.copy_step(block.number * blockwise::kBlock + step * kStep, draws[0]);
#pragma omp simd
    for (std::int64_t i = 0; i < kPairs; ++i) draws[1][i] = with_swapped_bytes(draws[0][i]);
    for (int i = 0; i < kMoments; ++i) {
      const Storage storage = mixture.stored(state(i));
      if (!is_codes(storage)) continue;
      encode_codes(storage, moments.numbers[i] + step * kStep, moments.inverses[i], draws[i],
                   advanced(leaf.out[1 + i], block.first + step * kStep));
    }
  }

  // From a step on, and the last one may be no whole one.
  void encode_rest(const Mixture& mixture, const Block& block, std::int64_t step,
                   const NewMoments& moments) {
    const std::int64_t whole = block.length / kStep;
    for (; step < whole; ++step) encode_whole(mixture, s_.leaf, block, step, moments);
    if (step == steps_of(block)) return;
    const std::int64_t first = block.first + step * kStep, length = block.length % kStep;
    alignas(64) unsigned char codes[kMoments][kStep];
    Leaf last = s_.leaf;
    for (int i = 0; i < kMoments; ++i) last.out[1 + i] = codes[i] - first;
    encode_whole(mixture, last, block, step, moments);
    for (int i = 0; i < kMoments; ++i) {
      if (!is_codes(mixture.stored(state(i)))) continue;
      copy(codes[i], advanced(s_.leaf.out[1 + i], first), length);
    }
  }

  void update_rest(const Mixture& mixture, const Block& block, std::int64_t step,
                   NewMoments& moments, LargestMagnitude* const largest) {
    for (; step < steps_of(block); ++step) {
      const std::int64_t first = block.first + step * kStep;
      const std::int64_t left = block.length - step * kStep;
      const StepDraws draws = drawn_.of_step(mixture, first);
      StepNumbers<float, kAveraging> numbers;
      if (left >= kStep) {
        update_one(Step{mixture, s_.leaf, first}, draws, numbers);
      } else {
        const Leaf end = part_of(s_.leaf, first, left);
        const LastStep last(end, s_.streams);
        update_one(Step{mixture, last.whole(), 0}, draws, numbers);
        last.copy_back(s_.streams);
      }
      // What stands behind the end says nothing: it may be NaN where a coefficient is.
      for (std::int64_t k = 0; k < (left < kStep ? left : kStep); ++k) {
        for (int i = 0; i < kMoments; ++i) largest[i].see(numbers.out[1 + i][place_of(k)]);
      }
      moments.keep(mixture, numbers, step);
    }
  }

  void update_one(const Step& step, const StepDraws& draws,
                  StepNumbers<float, kAveraging>& numbers) const {
    update_step<kReturns, Terms::kDecayAndClamp>(s_.row, step, factors_, draws, numbers);
  }

  NADAM_XLA_INLINE void set_factors(const Mixture& mixture, const Block& block) {
    for (int i = 0; i < kMoments; ++i) {
      const Storage storage = mixture.stored(state(i));
      if (is_codes(storage))
        factors_[i] = blockwise::factor_of(storage, scales_.in[i][block.number]);
    }
  }

  NADAM_XLA_INLINE void set_scales(const Mixture& mixture, const Block& block,
                                   const LargestMagnitude* const largest, NewMoments& moments) {
    for (int i = 0; i < kMoments; ++i) {
      const Storage storage = mixture.stored(state(i));
      if (!is_codes(storage)) continue;
      const float scale = blockwise::scale_of(largest[i].bits());
      scales_.out[i][block.number] = scale;
      moments.inverses[i] = blockwise::inverse_of(storage, scale);
    }
  }

  const UpdateStretch<float>& s_;
  const Scales scales_;
  Draws drawn_;
  Tabulated of_codes_;
  float factors_[kMoments] = {};
  NewMoments moments_[2];
};

template <Returns kReturns, Terms kTerms, Averaging kAveraging>
NADAM_XLA_INLINE void run_blocks(const BlockwiseStretch& stretch, const Mixture& mixture) {
  Blocks<kReturns, kAveraging> blocks(stretch, mixture);
  blocks.template run<kTerms>(mixture, stretch.first_block, stretch.blocks);
}

template <Terms kTerms, const Mixture& kMixture>
void run_known_blocks(const BlockwiseStretch& stretch) {
  run_blocks<Returns::kParams, kTerms, Averaging::kOff>(stretch, kMixture);
}

using KnownBlocks = void (*)(const BlockwiseStretch&);

template <Terms kTerms, const Mixture&... kMixture>
KnownBlocks known_blocks_of(const Mixture& mixture) {
  KnownBlocks loop = nullptr;
  ((loop = mixture == kMixture ? &run_known_blocks<kTerms, kMixture> : loop), ...);
  return loop;
}

template <Terms kTerms>
KnownBlocks known_blocks(const Mixture& mixture) {
  return known_blocks_of<kTerms, kCodes, kCodesDrawn, kCodesOfWide, kCodesOfWideParams,
                         kCodesWithRemainder>(mixture);
}

KnownBlocks known_blocks(const Row<float>& row, const Mixture& mixture) {
  if constexpr (kHasKnownLoops) {
    const Terms terms = terms_of(row);
    if (terms == Terms::kNone && is_plain(row)) return known_blocks<Terms::kPlain>(mixture);
    if (terms != Terms::kDecayAndClamp) return known_blocks<Terms::kDecay>(mixture);
  }
  return nullptr;
}

template <Averaging kAveraging>
void update_any_blocks(const BlockwiseStretch& stretch, const Mixture& mixture) {
  if (mixture.is_change_of_rule) {
    run_blocks<Returns::kChange, Terms::kDecayAndClamp, kAveraging>(stretch, mixture);
  } else {
    run_blocks<Returns::kParams, Terms::kDecayAndClamp, kAveraging>(stretch, mixture);
  }
}

void update_blocks(const BlockwiseStretch& stretch) {
  const UpdateStretch<float>& s = stretch.of;
  const Mixture mixture = mixture_of(s, returns_change_of_stored(s));
  if (s.streams.has(Stream::kAverage)) {
    return update_any_blocks<Averaging::kOn>(stretch, mixture);
  }
  if (const KnownBlocks loop = known_blocks(s.row, mixture); loop != nullptr) return loop(stretch);
  update_any_blocks<Averaging::kOff>(stretch, mixture);
}

// Blocks that follow one another are elements that do, whatever rows they are of.
void skip_blocks(const BlockwiseStretch& stretch) {
  const Block first = block_at(stretch.scales.columns, stretch.first_block);
  const Block last = block_at(stretch.scales.columns, stretch.first_block + stretch.blocks - 1);
  UpdateStretch<float> elements = stretch.of;
  elements.leaf = part_of(stretch.of.leaf, first.first, last.first + last.length - first.first);
  skip(elements);
  for (int i = 0; i < kMoments; ++i) {
    if (stretch.scales.in[i] == nullptr) continue;
    copy(stretch.scales.in[i] + stretch.first_block, stretch.scales.out[i] + stretch.first_block,
         stretch.blocks * static_cast<std::int64_t>(sizeof(float)));
  }
}

void update_blockwise(const BlockwiseStretch& stretch) {
  return stretch.of.row.skip ? skip_blocks(stretch) : update_blocks(stretch);
}

}  // namespace
}  // namespace nadam_xla::cpu
