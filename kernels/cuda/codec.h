// A few consecutive elements, however they are stored: loaded as they are, decoded into numbers of
// the rule, encoded from them and stored. One way for each storage, chosen when the kernel runs, so
// that the ways add up and no mixture of them is a kernel of its own.
//
// kCount is the number of elements, kGroup or 1. Of a group, each address must be a multiple of
// what one instruction loads: 16 bytes, or 8 of elements of one byte.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/pack.h"
#include "kernels/random_bits.h"
#include "kernels/storage.h"

namespace nadam_xla::cuda {

// The elements that a thread works on together: as many as there are random numbers of at a time,
// and of bfloat16 a load of the widest.
inline constexpr std::int32_t kGroup = 8;

// ---- memory -----------------------------------------------------------------------------------

constexpr int words_of(const int bytes) { return (bytes + 3) / 4; }

// So many elements of kBytes each, the first in the lowest bits of the first word.
template <int kCount, int kBytes>
struct Words {
  std::uint32_t at[words_of(kCount * kBytes)];
};

template <int kBytes>
NADAM_XLA_INLINE std::uint32_t element(const std::uint32_t* const words, const int k) {
  constexpr int kOfWord = 4 / kBytes;
  return words[k / kOfWord] >> 8 * kBytes * (k % kOfWord) & ((1u << 8 * kBytes) - 1);
}

// Of elements of less than a word, `element(k)` of each.
template <int kCount, int kBytes, typename Function>
NADAM_XLA_INLINE Words<kCount, kBytes> words_of_elements(const Function& element) {
  constexpr int kOfWord = 4 / kBytes;
  Words<kCount, kBytes> words{};
  NADAM_XLA_UNROLL
  for (int k = 0; k < kCount; ++k) {
    words.at[k / kOfWord] |= static_cast<std::uint32_t>(element(k)) << 8 * kBytes * (k % kOfWord);
  }
  return words;
}

template <int kBytes>
using Narrow = std::conditional_t<kBytes == 1, std::uint8_t, std::uint16_t>;

// Loads from element `i` of an array on.
template <int kCount, int kBytes>
NADAM_XLA_INLINE Words<kCount, kBytes> load_words(const void* const array, const std::int64_t i) {
  const void* const from = static_cast<const char*>(array) + i * kBytes;
  assume_global(from);
  Words<kCount, kBytes> words;
  if constexpr (kCount * kBytes < 4) {
    words.at[0] = load<1>(static_cast<const Narrow<kBytes>*>(from)).at[0];
  } else {
    constexpr int kWords = words_of(kCount * kBytes);
    constexpr int kPack = kWords < 4 ? kWords : 4;
    NADAM_XLA_UNROLL
    for (int w = 0; w < kWords; w += kPack) {
      const auto pack = load<kPack>(static_cast<const std::uint32_t*>(from) + w);
      NADAM_XLA_UNROLL
      for (int k = 0; k < kPack; ++k) words.at[w + k] = pack.at[k];
    }
  }
  return words;
}

template <int kCount, int kBytes>
NADAM_XLA_INLINE void store_words(void* const array, const std::int64_t i,
                                  const Words<kCount, kBytes>& words) {
  void* const to = static_cast<char*>(array) + i * kBytes;
  assume_global(to);
  if constexpr (kCount * kBytes < 4) {
    using Stored = Narrow<kBytes>;
    store(static_cast<Stored*>(to), Pack<Stored, 1>{{static_cast<Stored>(words.at[0])}});
  } else {
    constexpr int kWords = words_of(kCount * kBytes);
    constexpr int kPack = kWords < 4 ? kWords : 4;
    NADAM_XLA_UNROLL
    for (int w = 0; w < kWords; w += kPack) {
      Pack<std::uint32_t, kPack> pack;
      NADAM_XLA_UNROLL
      for (int k = 0; k < kPack; ++k) pack.at[k] = words.at[w + k];
      store(static_cast<std::uint32_t*>(to) + w, pack);
    }
  }
}

NADAM_XLA_INLINE double double_of(const std::uint32_t low, const std::uint32_t high) {
  const std::uint64_t bits = static_cast<std::uint64_t>(high) << 32 | low;
  double x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
}

NADAM_XLA_INLINE std::uint64_t bits_of(const double x) {
  std::uint64_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  return bits;
}

// ---- decoding ---------------------------------------------------------------------------------

template <typename T, int kCount>
struct Numbers {
  T at[kCount];
};

// What stands in memory, before the first use of it. There is room for what the rule computes, and
// for two halves: a bfloat16 and its remainder.
template <typename T, int kCount>
struct Loaded {
  static constexpr int kRemainder = (kCount + 1) / 2;  // the first word of the remainders
  std::uint32_t words[kCount * words_of(sizeof(T)) + (kCount == 1)];
};

template <int kFirst = 0, typename T, int kCount, int kBytes>
NADAM_XLA_INLINE void put(Loaded<T, kCount>& into, const Words<kCount, kBytes>& words) {
  NADAM_XLA_UNROLL
  for (int w = 0; w < words_of(kCount * kBytes); ++w) into.words[kFirst + w] = words.at[w];
}

template <typename T, int kCount>
NADAM_XLA_INLINE Loaded<T, kCount> load_stored(const Storage storage, const void* const array,
                                               const std::int64_t i) {
  Loaded<T, kCount> loaded{};
  if (storage == Storage::kF32) {
    put(loaded, load_words<kCount, 4>(array, i));
  } else if (storage != Storage::kF64) {
    put(loaded, load_words<kCount, 2>(array, i));
  } else if constexpr (kStorageOf<T> == Storage::kF64) {
    put(loaded, load_words<kCount, 8>(array, i));
  } else {
    // As float32 at once: there is no room for more.
    const Words<kCount, 8> wide = load_words<kCount, 8>(array, i);
    NADAM_XLA_UNROLL
    for (int k = 0; k < kCount; ++k) {
      const double x = double_of(wide.at[2 * k], wide.at[2 * k + 1]);
      loaded.words[k] = nadam_xla::bits_of(static_cast<float>(x));
    }
  }
  return loaded;
}

template <int kBits>
NADAM_XLA_INLINE float joined_at(const std::uint32_t* const bfloat16s,
                                 const std::uint32_t* const remainders, const int k) {
  return joined<kBits>(static_cast<std::uint32_t>(element<2>(bfloat16s, k)) << 16,
                       static_cast<std::uint32_t>(element<kBits / 8>(remainders, k))
                           << (32 - kBits));
}

// Calls with the number of each element, and returns the results.
template <typename T, int kCount, typename Function>
NADAM_XLA_INLINE Numbers<T, kCount> each(const Function& number) {
  Numbers<T, kCount> numbers;
  NADAM_XLA_UNROLL
  for (int k = 0; k < kCount; ++k) numbers.at[k] = static_cast<T>(number(k));
  return numbers;
}

// Of bfloat16 or float16.
template <typename T, int kCount>
NADAM_XLA_INLINE Numbers<T, kCount> decoded_narrow(const Storage storage,
                                                   const std::uint32_t* const words) {
  const auto stored = [=](const int k) { return static_cast<std::uint16_t>(element<2>(words, k)); };
  return storage == Storage::kBF16
             ? each<T, kCount>([&](const int k) { return of_bfloat16(stored(k)); })
             : each<T, kCount>([&](const int k) { return of_float16(stored(k)); });
}

// Remainders stand behind their bfloat16.
template <typename T, int kCount>
NADAM_XLA_INLINE Numbers<T, kCount> decoded(const Storage storage,
                                            const Loaded<T, kCount>& loaded) {
  const auto* const words = loaded.words;
  const auto* const remainders = words + Loaded<T, kCount>::kRemainder;
  switch (storage) {
    case Storage::kF64:
      if constexpr (kStorageOf<T> == Storage::kF64) {
        return each<T, kCount>(
            [=](const int k) { return double_of(words[2 * k], words[2 * k + 1]); });
      }
      [[fallthrough]];  // it was made a float32
    case Storage::kF32:
      return each<T, kCount>([=](const int k) { return float_of(words[k]); });
    case Storage::kRemainder16:
      return each<T, kCount>([=](const int k) { return joined_at<16>(words, remainders, k); });
    case Storage::kRemainder8:
      return each<T, kCount>([=](const int k) { return joined_at<8>(words, remainders, k); });
    default:
      return decoded_narrow<T, kCount>(storage, words);
  }
}

// ---- encoding ---------------------------------------------------------------------------------

// 16 random bits for each element.
template <int kCount>
struct Draws {
  std::uint32_t words[words_of(2 * kCount)];

  NADAM_XLA_INLINE std::uint32_t at(const int k) const { return element<2>(words, k); }
};

// The four words of which this one is one.
NADAM_XLA_INLINE RandomWords words_with(const RandomKey& key, const std::int64_t word,
                                        const Draw what) {
  const auto four = static_cast<std::uint64_t>(word) / 4;
  return random_words(
      key, {static_cast<std::uint32_t>(four), static_cast<std::uint32_t>(four >> 32), what});
}

NADAM_XLA_INLINE std::uint32_t word_of(const RandomWords& words, const std::int64_t word) {
  const auto in_four = static_cast<std::int32_t>(word % 4);
  const std::uint32_t in_first = in_four == 0 ? words.of[0] : words.of[1];
  const std::uint32_t in_last = in_four == 2 ? words.of[2] : words.of[3];
  return in_four < 2 ? in_first : in_last;
}

// `first`: the number of the first element in its batch entry; of a group, a multiple of eight.
template <int kCount>
NADAM_XLA_INLINE Draws<kCount> draws_of(const RandomKey& key, const std::int64_t first,
                                        const Draw what) {
  const std::int64_t block = first / kElementsOfBlock, place = first % kElementsOfBlock / 2;
  const std::uint32_t of_block = word_of(words_with(key, block, of_blocks(what)), block);
  const RandomWords of_places = words_with(key, place, what);
  if constexpr (kCount == kGroup) {
    Draws<kCount> draws;
    NADAM_XLA_UNROLL
    for (int w = 0; w < 4; ++w) draws.words[w] = numbers_of_pair(of_places.of[w], of_block);
    return draws;
  } else {
    static_assert(kCount == 1);
    return {{numbers_of_pair(word_of(of_places, place), of_block) >> 16 * (first % 2)}};
  }
}

template <int kCount>
NADAM_XLA_INLINE Draws<kCount> with_swapped_bytes(const Draws<kCount>& draws) {
  Draws<kCount> swapped;
  NADAM_XLA_UNROLL
  for (int w = 0; w < words_of(2 * kCount); ++w) {
    const std::uint32_t upper = swapped_bytes(draws.words[w] >> 16);
    swapped.words[w] = upper << 16 | swapped_bytes(draws.words[w] & 0xffff);
  }
  return swapped;
}

// How numbers are rounded that are stored in fewer bits.
template <int kCount>
struct Rounder {
  Rounding rounding;
  Draws<kCount> draws;  // where it is stochastic
};

template <int kCount>
NADAM_XLA_INLINE Rounder<kCount> to_nearest() {
  return {Rounding::kNearest, {}};
}

// As bfloat16 or float16.
template <typename T, int kCount>
NADAM_XLA_INLINE Words<kCount, 2> encoded_narrow(const Numbers<T, kCount>& numbers,
                                                 const Storage storage,
                                                 const Rounder<kCount>& rounder) {
  const auto x = [&](const int k) { return static_cast<float>(numbers.at[k]); };
  const auto draw = [&](const int k) { return rounder.draws.at(k); };
  const auto words = [](const auto& of_element) {
    return words_of_elements<kCount, 2>(of_element);
  };
  const bool is_drawn = rounder.rounding == Rounding::kStochastic;
  if (storage == Storage::kBF16) {
    return is_drawn ? words([&](const int k) { return to_bfloat16(x(k), draw(k)); })
                    : words([&](const int k) { return to_bfloat16(x(k)); });
  }
  return is_drawn ? words([&](const int k) { return to_float16(x(k), draw(k)); })
                  : words([&](const int k) { return to_float16(x(k)); });
}

template <typename T, int kCount>
NADAM_XLA_INLINE void store_encoded(const Numbers<T, kCount>& numbers, const Storage storage,
                                    const Rounder<kCount>& rounder, void* const array,
                                    const std::int64_t i) {
  if (storage == Storage::kF32) {
    Words<kCount, 4> words;
    NADAM_XLA_UNROLL
    for (int k = 0; k < kCount; ++k) {
      words.at[k] = nadam_xla::bits_of(static_cast<float>(numbers.at[k]));
    }
    store_words(array, i, words);
  } else if (storage == Storage::kF64) {
    Words<kCount, 8> words;
    NADAM_XLA_UNROLL
    for (int k = 0; k < kCount; ++k) {
      const std::uint64_t bits = bits_of(static_cast<double>(numbers.at[k]));
      words.at[2 * k] = static_cast<std::uint32_t>(bits);
      words.at[2 * k + 1] = static_cast<std::uint32_t>(bits >> 32);
    }
    store_words(array, i, words);
  } else {
    store_words(array, i, encoded_narrow(numbers, storage, rounder));
  }
}

// Stores what the bfloat16 of a float32 lacks, and returns those bfloat16.
template <int kBits, typename T, int kCount>
NADAM_XLA_INLINE Words<kCount, 2> store_remainders(const Numbers<T, kCount>& numbers,
                                                   void* const array, const std::int64_t i) {
  const auto parts = [&](const int k) { return split<kBits>(static_cast<float>(numbers.at[k])); };
  store_words(array, i, words_of_elements<kCount, kBits / 8>([&](const int k) {
                return parts(k).remainder;
              }));
  return words_of_elements<kCount, 2>([&](const int k) { return parts(k).upper >> 16; });
}

template <typename T, int kCount>
NADAM_XLA_INLINE Numbers<T, kCount> rounded_to_24_bits(const Numbers<T, kCount>& numbers,
                                                       const Rounder<kCount>& rounder) {
  const auto x = [&](const int k) { return static_cast<float>(numbers.at[k]); };
  if (rounder.rounding == Rounding::kNearest) {
    return each<T, kCount>([&](const int k) { return to_24_bits(x(k)); });
  }
  return each<T, kCount>([&](const int k) { return to_24_bits(x(k), rounder.draws.at(k) & 0xff); });
}

}  // namespace nadam_xla::cuda
