// The random numbers of a stretch of a leaf. Part of loops.cpp, whose rules hold here.
#pragma once

#include <cstdint>

#include "kernels/cpu/codec.h"
#include "kernels/cpu/mixtures.h"
#include "kernels/random_bits.h"
#include "kernels/streams.h"

namespace nadam_xla::cpu {
namespace {

// The words that are drawn at a time: four for each lane of the widest vectors.
constexpr std::int64_t kDrawn = 64;

// From a word on that is a multiple of four.
void draw(std::uint32_t* const words, const RandomKey& given, const std::int64_t first,
          const Draw what) {
  constexpr std::uint32_t kFours = kDrawn / 4;
  const RandomKey key = given;
  const auto four = static_cast<std::uint64_t>(first) / 4;
  const auto lower = static_cast<std::uint32_t>(four);
  const auto upper = static_cast<std::uint32_t>(four >> 32);
#pragma omp simd
  for (std::uint32_t i = 0; i < kFours; ++i) {
    const std::uint32_t counter = lower + i;
    const RandomWords drawn = random_words(key, {counter, upper + (counter < lower), what});
    words[4 * i] = drawn.of[0];
    words[4 * i + 1] = drawn.of[1];
    words[4 * i + 2] = drawn.of[2];
    words[4 * i + 3] = drawn.of[3];
  }
}

// Both numbers of a pair, the two bytes of each in the other order.
NADAM_XLA_INLINE std::uint32_t with_swapped_bytes(const std::uint32_t pair) {
  return (pair & 0x00ff00ff) << 8 | (pair >> 8 & 0x00ff00ff);
}

// The numbers of one kind.
class Tabulated {
 public:
  void begin(const RandomKey& key, const Draw what) {
    key_ = key;
    what_ = what;
    for (std::int64_t place = 0; place < kPlaces; place += kDrawn) {
      draw(of_places_ + place, key, place, what);
    }
  }

  // Of the step that begins with this element of the batch entry.
  NADAM_XLA_INLINE void copy_step(const std::int64_t element, std::uint32_t* const pairs) {
    const std::uint32_t of_block = of_block_of(element / kElementsOfBlock);
    const std::uint32_t* const of_places = of_places_ + element % kElementsOfBlock / 2;
#pragma omp simd
    for (std::int64_t i = 0; i < kPairs; ++i) pairs[i] = numbers_of_pair(of_places[i], of_block);
  }

  // The same for an element that need not be the first of a step: rows may have any length.
  void copy_elements(const std::int64_t element, std::uint32_t* const pairs) {
    for (std::int64_t i = 0; i < kPairs; ++i) {
      pairs[i] = of_element(element + 2 * i) | of_element(element + 2 * i + 1) << 16;
    }
  }

 private:
  std::uint32_t of_element(const std::int64_t element) {
    const std::uint32_t of_place = of_places_[element % kElementsOfBlock / 2];
    const std::uint32_t of_block = of_block_of(element / kElementsOfBlock);
    return numbers_of_pair(of_place, of_block) >> 16 * (element % 2) & 0xffff;
  }

  NADAM_XLA_INLINE std::uint32_t of_block_of(const std::int64_t block) {
    const std::int64_t first = block / kDrawn * kDrawn;
    if (first != first_block_) {
      draw(of_blocks_, key_, first, of_blocks(what_));
      first_block_ = first;
    }
    return of_blocks_[block - first];
  }

  RandomKey key_;
  Draw what_;
  std::int64_t first_block_ = -1;
  alignas(64) std::uint32_t of_places_[kPlaces];
  alignas(64) std::uint32_t of_blocks_[kDrawn];
};

// The random numbers of a step, in pairs.
struct StepDraws {
  alignas(64) std::uint32_t params[kPairs];
  alignas(64) std::uint32_t moments[kMoments][kPairs];
};

class Draws {
 public:
  Draws(const Mixture& mixture, const RandomKey& key) {
    if (mixture.draws_moments()) of_moments_.begin(key, Draw::kOfMoments);
    if (mixture.draws_params()) of_params_.begin(key, Draw::kOfParams);
  }

  // Of the step that begins with this element of the batch entry.
  NADAM_XLA_INLINE StepDraws of_step(const Mixture& mixture, const std::int64_t element) {
    StepDraws step{};
    if (mixture.draws_params()) copy(of_params_, element, step.params);
    if (mixture.draws_moments()) {
      copy(of_moments_, element, step.moments[0]);
      set_second_moments(step);
    }
    return step;
  }

 private:
  static NADAM_XLA_INLINE void copy(Tabulated& from, const std::int64_t element,
                                    std::uint32_t* const pairs) {
    if (element % kStep == 0) return from.copy_step(element, pairs);
    from.copy_elements(element, pairs);
  }

  static NADAM_XLA_INLINE void set_second_moments(StepDraws& step) {
#pragma omp simd
    for (std::int64_t i = 0; i < kPairs; ++i) {
      step.moments[1][i] = with_swapped_bytes(step.moments[0][i]);
    }
  }

  Tabulated of_moments_, of_params_;
};

}  // namespace
}  // namespace nadam_xla::cpu
