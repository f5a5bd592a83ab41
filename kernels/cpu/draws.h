// The random numbers of a leaf, drawn for some steps together. Part of loops.cpp, whose rules hold
// here.
#pragma once

#include <cstdint>

#include "kernels/cpu/halves.h"
#include "kernels/cpu/mixtures.h"
#include "kernels/random_bits.h"
#include "kernels/streams.h"

namespace nadam_xla::cpu {
namespace {

// The elements whose numbers are drawn together: eight for each lane of the widest vectors.
constexpr std::int64_t kDrawn = 128;

// 16 bits for each element, in pairs. The first one is a multiple of eight.
void draw(std::uint32_t* const draws, const RandomKey& given, const std::int64_t first,
          const Draw what) {
  constexpr std::uint32_t kOctets = kDrawn / 8;
  const RandomKey key = given;
  const auto octet = static_cast<std::uint64_t>(first) / 8;
  const auto lower = static_cast<std::uint32_t>(octet);
  const auto upper = static_cast<std::uint32_t>(octet >> 32);
#pragma omp simd
  for (std::uint32_t i = 0; i < kOctets; ++i) {
    const std::uint32_t counter = lower + i;
    const RandomWords drawn = random_words(key, {counter, upper + (counter < lower), what});
    draws[4 * i] = drawn.of[0];
    draws[4 * i + 1] = drawn.of[1];
    draws[4 * i + 2] = drawn.of[2];
    draws[4 * i + 3] = drawn.of[3];
  }
}

NADAM_XLA_INLINE void swap_bytes(const std::uint32_t* const from, std::uint32_t* const to) {
  for (std::int64_t i = 0; i < kDrawn / 2; i += kWordsOfVector) {
    const Halves halves = halves_at(from + i);
    store(halves << 8 | halves >> 8, to + i);
  }
}

// The random numbers of a step; null where nothing is drawn.
struct StepDraws {
  const std::uint32_t* params;
  const std::uint32_t* moments[kMoments];
};

class Draws {
 public:
  // Of the step that begins with this element of a stretch, whose first one has that number. The
  // steps come one after the other.
  NADAM_XLA_INLINE StepDraws of_step(const Mixture& mixture, const RandomKey& key,
                                     const std::int64_t first, const std::int64_t element) {
    const std::int64_t before = element % kDrawn;
    if (before == 0) draw_all(mixture, key, first + element);
    const std::int64_t pair = before / 2;
    const bool moments = mixture.draws_moments();
    return {mixture.draws_params() ? of_params_ + pair : nullptr,
            {moments ? of_moments_[0] + pair : nullptr, moments ? of_moments_[1] + pair : nullptr}};
  }

 private:
  NADAM_XLA_INLINE void draw_all(const Mixture& mixture, const RandomKey& key,
                                 const std::int64_t first) {
    if (mixture.draws_moments()) {
      draw(of_moments_[0], key, first, Draw::kOfStates);
      swap_bytes(of_moments_[0], of_moments_[1]);
    }
    if (mixture.draws_params()) draw(of_params_, key, first, Draw::kOfParams);
  }

  alignas(64) std::uint32_t of_moments_[kMoments][kDrawn / 2];
  alignas(64) std::uint32_t of_params_[kDrawn / 2];
};

}  // namespace
}  // namespace nadam_xla::cpu
