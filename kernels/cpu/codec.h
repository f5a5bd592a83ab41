// Stored numbers, decoded into numbers of the rule and encoded from them, a step at a time: one
// decoder and one encoder for each storage. Part of loops.cpp, whose rules hold here.
//
// The numbers of a step stand in another order than in memory: first those of even places, then
// those of odd ones. Two that share 32 bits of memory so come apart, and together again, by shifts
// and masks in every lane of a vector; in the order of memory that takes shuffles, for which there
// are fewer ports. The rule does not care.
#pragma once

#if defined(__AVX512F__)
#include "kernels/cpu/intrinsics.h"
#endif

#include <cstdint>

#include "kernels/cpu/halves.h"
#include "kernels/cpu/loops.h"
#include "kernels/random_bits.h"
#include "kernels/storage.h"

namespace nadam_xla::cpu {
namespace {

// Of a step.
constexpr std::int64_t kPairs = kStep / 2;

// Two stored numbers of 16 bits, that of the even place in the lower half (kernels/machine.h),
// which may begin at any of their kind. `auto` would forget that.
using PairOf16 = std::uint32_t __attribute__((aligned(2), may_alias));

// The random number of a pair's even or odd element.
NADAM_XLA_INLINE std::uint32_t of_even(const std::uint32_t draws) { return draws & 0xffff; }
NADAM_XLA_INLINE std::uint32_t of_odd(const std::uint32_t draws) { return draws >> 16; }

// A step as floats: itself, or a copy.
NADAM_XLA_INLINE const float* floats_of(const float* const numbers, float*) { return numbers; }
NADAM_XLA_INLINE const float* floats_of(const double* const numbers, float* const copy) {
#pragma omp simd
  for (std::int64_t i = 0; i < kStep; ++i) copy[i] = static_cast<float>(numbers[i]);
  return copy;
}

NADAM_XLA_INLINE HalvesOfFloats halves_at_pair(const float* const numbers, const std::int64_t i) {
  return halves_of(words_at(numbers + i), words_at(numbers + kPairs + i));
}

// ---- float32 and float64 ------------------------------------------------------------------------

template <typename Stored, typename T>
NADAM_XLA_INLINE void decode_wide(const void* const from, T* const to) {
  const auto* const stored = static_cast<const Stored*>(from);
#pragma omp simd
  for (std::int64_t i = 0; i < kPairs; ++i) {
    to[i] = static_cast<T>(stored[2 * i]);
    to[kPairs + i] = static_cast<T>(stored[2 * i + 1]);
  }
}

template <typename Stored, typename T>
NADAM_XLA_INLINE void encode_wide(const T* const from, void* const to) {
  auto* const stored = static_cast<Stored*>(to);
#pragma omp simd
  for (std::int64_t i = 0; i < kPairs; ++i) {
    stored[2 * i] = static_cast<Stored>(from[i]);
    stored[2 * i + 1] = static_cast<Stored>(from[kPairs + i]);
  }
}

// ---- bfloat16 -----------------------------------------------------------------------------------

template <typename T>
NADAM_XLA_INLINE void decode_bfloat16(const void* const from, T* const to) {
  const PairOf16* const pairs = static_cast<const PairOf16*>(from);
#pragma omp simd
  for (std::int64_t i = 0; i < kPairs; ++i) {
    const std::uint32_t pair = pairs[i];
    to[i] = static_cast<T>(float_of(pair << 16));
    to[kPairs + i] = static_cast<T>(float_of(pair & 0xffff0000u));
  }
}

// No NaN may be there.
NADAM_XLA_INLINE void encode_bfloat16(const float* const from, void* const to) {
  PairOf16* const pairs = static_cast<PairOf16*>(to);
  for (std::int64_t i = 0; i < kPairs; i += kWordsOfVector) {
    const HalvesOfFloats x = halves_at_pair(from, i);
    const Halves lower = x.lower | (x.upper & 1);  // ties to even
    store(plus_one_where_above(x.upper, lower, Halves{} + 0x8000), pairs + i);
  }
}

// Nothing may be there from the largest finite number on.
NADAM_XLA_INLINE void encode_bfloat16(const float* const from, void* const to,
                                      const std::uint32_t* const draws) {
  PairOf16* const pairs = static_cast<PairOf16*>(to);
  for (std::int64_t i = 0; i < kPairs; i += kWordsOfVector) {
    const HalvesOfFloats x = halves_at_pair(from, i);
    const Halves sum = x.lower + halves_at(draws + i);
    store(plus_one_where_above(x.upper, x.lower, sum), pairs + i);
  }
}

// ---- float16 ------------------------------------------------------------------------------------

#if defined(__AVX512F__)
// The processor's own conversions, which heed no flushing of subnormals.
NADAM_XLA_INLINE void decode_float16(const void* const from, float* const to) {
  const __m512i pairs = _mm512_loadu_si512(from);
  const __m256i even = _mm512_cvtepi32_epi16(pairs);
  const __m256i odd = _mm512_cvtepi32_epi16(_mm512_srli_epi32(pairs, 16));
  _mm512_store_ps(to, _mm512_cvtph_ps(even));
  _mm512_store_ps(to + kPairs, _mm512_cvtph_ps(odd));
}

NADAM_XLA_INLINE void encode_float16(const float* const from, void* const to) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const __m256i even = _mm512_cvtps_ph(_mm512_load_ps(from), kNearest);
  const __m256i odd = _mm512_cvtps_ph(_mm512_load_ps(from + kPairs), kNearest);
  const __m512i above = _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16);
  _mm512_storeu_si512(to, _mm512_or_si512(_mm512_cvtepu16_epi32(even), above));
}
#else
NADAM_XLA_INLINE void encode_float16(const float* const from, void* const to) {
  PairOf16* const pairs = static_cast<PairOf16*>(to);
#pragma omp simd
  for (std::int64_t i = 0; i < kPairs; ++i) {
    pairs[i] = float16_bits_of(from[i]) | float16_bits_of(from[kPairs + i]) << 16;
  }
}
#endif

template <typename T>
NADAM_XLA_INLINE void decode_float16(const void* const from, T* const to) {
  const PairOf16* const pairs = static_cast<const PairOf16*>(from);
#pragma omp simd
  for (std::int64_t i = 0; i < kPairs; ++i) {
    const std::uint32_t pair = pairs[i];
    to[i] = static_cast<T>(of_float16(static_cast<std::uint16_t>(pair)));
    to[kPairs + i] = static_cast<T>(of_float16(static_cast<std::uint16_t>(pair >> 16)));
  }
}

NADAM_XLA_INLINE void encode_float16(const float* const from, void* const to,
                                     const std::uint32_t* const draws) {
  PairOf16* const pairs = static_cast<PairOf16*>(to);
#pragma omp simd
  for (std::int64_t i = 0; i < kPairs; ++i) {
    const std::uint32_t even = float16_bits_of(from[i], of_even(draws[i]));
    pairs[i] = even | float16_bits_of(from[kPairs + i], of_odd(draws[i])) << 16;
  }
}

// ---- bfloat16 with a remainder ------------------------------------------------------------------

// The remainders of a vector of pairs; of eight bits, those are the upper ones of 16.
template <int kBits>
NADAM_XLA_INLINE Halves remainders_at(const void* const from) {
  if constexpr (kBits == 16) {
    return halves_at(from);
  } else {
    const Words pairs = widened(from);
    return reinterpret_cast<Halves>((pairs & 0xffu) << 8 | (pairs & 0xff00u) << 16);
  }
}

template <int kBits>
NADAM_XLA_INLINE void store_remainders(const Halves remainders, void* const to) {
  if constexpr (kBits == 16) {
    store(remainders, to);
  } else {
    const Words pairs = reinterpret_cast<Words>(remainders >> 8);
    store_narrowed(pairs | pairs >> 8, to);
  }
}

template <int kBits>
constexpr std::int64_t kBytesOfPair = kBits / 4;

template <int kBits, typename T>
NADAM_XLA_INLINE void decode_joined(const void* const from, const void* const remainders,
                                    T* const to) {
  const PairOf16* const pairs = static_cast<const PairOf16*>(from);
  alignas(64) float numbers[kStep];
  for (std::int64_t i = 0; i < kPairs; i += kWordsOfVector) {
    const void* const beside = static_cast<const char*>(remainders) + i * kBytesOfPair<kBits>;
    const HalvesOfFloats x = joined_halves(halves_at(pairs + i), remainders_at<kBits>(beside));
    store(even_floats(x), numbers + i);
    store(odd_floats(x), numbers + kPairs + i);
  }
#pragma omp simd
  for (std::int64_t i = 0; i < kStep; ++i) to[i] = static_cast<T>(numbers[i]);
}

// The rounding before a number is taken apart: none, where all of it is kept.
template <int kBits>
NADAM_XLA_INLINE HalvesOfFloats rounded_for(const HalvesOfFloats x,
                                            const std::uint32_t* const draws) {
  if constexpr (kBits == 16) return x;
  const Halves below = draws != nullptr ? halves_at(draws) & 0xff : (x.lower >> 8 & 1) + 0x7f;
  const Halves sum = x.lower + below;
  return {plus_one_where_above(x.upper, x.lower, sum), sum};
}

// No NaN may be there, and where there are draws, nothing from the largest finite number on.
template <int kBits>
NADAM_XLA_INLINE void encode_split(const float* const from, void* const to, void* const remainders,
                                   const std::uint32_t* const draws) {
  PairOf16* const pairs = static_cast<PairOf16*>(to);
  for (std::int64_t i = 0; i < kPairs; i += kWordsOfVector) {
    const HalvesOfFloats x =
        rounded_for<kBits>(halves_at_pair(from, i), draws == nullptr ? nullptr : draws + i);
    store(x.upper + (x.lower >> 15), pairs + i);
    store_remainders<kBits>(x.lower, static_cast<char*>(remainders) + i * kBytesOfPair<kBits>);
  }
}

// ---- any of them --------------------------------------------------------------------------------

template <typename T>
NADAM_XLA_INLINE void decode(const Storage storage, const void* const from, T* const to) {
  switch (storage) {
    case Storage::kF32:
      return decode_wide<float>(from, to);
    case Storage::kF64:
      return decode_wide<double>(from, to);
    case Storage::kBF16:
      return decode_bfloat16(from, to);
    default:
      return decode_float16(from, to);
  }
}

// The numbers of parameters with a master.
template <typename T>
NADAM_XLA_INLINE void decode_with_master(const void* const params, const Storage master_storage,
                                         const void* const master, T* const to) {
  switch (master_storage) {
    case Storage::kRemainder16:
      return decode_joined<16>(params, master, to);
    case Storage::kRemainder8:
      return decode_joined<8>(params, master, to);
    default:
      return decode_wide<float>(master, to);
  }
}

// Without draws: to the nearest. A bfloat16 must be one that can be rounded in a vector.
template <typename T>
NADAM_XLA_INLINE void encode(const Storage storage, const T* const from, void* const to,
                             const std::uint32_t* const draws) {
  alignas(64) float copy[kStep];
  switch (storage) {
    case Storage::kF32:
      return encode_wide<float>(from, to);
    case Storage::kF64:
      return encode_wide<double>(from, to);
    case Storage::kBF16:
      return draws == nullptr ? encode_bfloat16(floats_of(from, copy), to)
                              : encode_bfloat16(floats_of(from, copy), to, draws);
    default:
      return draws == nullptr ? encode_float16(floats_of(from, copy), to)
                              : encode_float16(floats_of(from, copy), to, draws);
  }
}

// Parameters, and their master.
template <typename T>
NADAM_XLA_INLINE void encode_with_master(const Storage storage, const Storage master_storage,
                                         const T* const from, void* const to, void* const master,
                                         const std::uint32_t* const draws) {
  alignas(64) float copy[kStep];
  switch (master_storage) {
    case Storage::kRemainder16:
      return encode_split<16>(floats_of(from, copy), to, master, nullptr);
    case Storage::kRemainder8:
      return encode_split<8>(floats_of(from, copy), to, master, draws);
    default:
      encode_wide<float>(from, master);
      return encode(storage, from, to, nullptr);
  }
}

}  // namespace
}  // namespace nadam_xla::cpu
