// Blocks of stored numbers, decoded into numbers of the rule and encoded from them: one decoder and
// one encoder for each storage. Part of loops.cpp, whose rules hold here.
//
// The numbers of a block stand in another order than in memory: first those of even places, then
// those of odd ones. Two that share 32 bits of memory so come apart, and together again, by shifts
// and masks in every lane of a vector; in the order of memory that takes shuffles, for which there
// are fewer ports. The rule does not care.
//
// Each loop stands in a function of its own, reached by its address: what is inlined into one
// another gcc vectorizes only in part.
#pragma once

#if defined(__AVX512F__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // of gcc 12's own header
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#include <cstdint>

#include "kernels/cpu/prefetch.h"
#include "kernels/random_bits.h"
#include "kernels/storage.h"
#include "kernels/update_call.h"

namespace nadam_xla::cpu {
namespace {

// The elements of a block. Long enough that what is done once a block does not show, and short
// enough that the processor, which looks some hundred instructions ahead, does the next job while
// the divider is still busy.
constexpr std::int64_t kBlock = 128;
constexpr std::int64_t kHalf = kBlock / 2;

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "The number of the even place comes first.");

// Two stored numbers of 16 bits, or of 8, which may begin at any of their kind.
using PairOf16 = std::uint32_t __attribute__((aligned(2), may_alias));
using PairOf8 = std::uint16_t __attribute__((aligned(1), may_alias));

template <typename T>
struct Decoding;
template <typename T>
using Decoder = void (*)(const Decoding<T>& of, int buffer);

// A stream that is decoded, block by block, into two buffers in turn.
template <typename T>
struct Decoding {
  Decoder<T> decode;
  const void* from;
  const void* master;  // behind a bfloat16, where it has one
  T* to[2];
  std::int64_t size, size_of_master;

  NADAM_XLA_INLINE void run(const int buffer) {
    decode(*this, buffer);
    from = advanced(from, kBlock * size);
    master = advanced(master, kBlock * size_of_master);
  }
};

template <typename T>
struct Encoding;
template <typename T>
using Encoder = void (*)(const Encoding<T>& of, int buffer);

// A result that is encoded, block by block, from two buffers in turn.
template <typename T>
struct Encoding {
  Encoder<T> encode;
  T* from[2];
  void* to;
  void* master = nullptr;                  // behind a bfloat16, where it has one
  const std::uint32_t* draws = nullptr;    // of the block, in pairs, where rounding is stochastic
  const void* before = nullptr;            // the parameters, where their change is stored,
  Encoder<T> encode_params = nullptr;      // and how they would be,
  Encoder<T> encode_difference = nullptr;  // and how that is
  std::int64_t size, size_of_master = 0, size_before = 0;

  NADAM_XLA_INLINE void run(const int buffer) {
    encode(*this, buffer);
    to = advanced(to, kBlock * size);
    master = advanced(master, kBlock * size_of_master);
    before = advanced(before, kBlock * size_before);
  }
};

// ---- storages -----------------------------------------------------------------------------------

// Both numbers of a pair, as floats and back.
template <Storage kStorage>
struct Pair;

template <>
struct Pair<Storage::kBF16> {
  static NADAM_XLA_INLINE float even(const std::uint32_t pair) { return float_of(pair << 16); }
  static NADAM_XLA_INLINE float odd(const std::uint32_t pair) {
    return float_of(pair & 0xffff0000u);
  }
  static NADAM_XLA_INLINE std::uint32_t of(const float even, const float odd) {
    return to_bfloat16_above(even) >> 16 | (to_bfloat16_above(odd) & 0xffff0000u);
  }
};

template <>
struct Pair<Storage::kF16> {
  static NADAM_XLA_INLINE float even(const std::uint32_t pair) {
    return of_float16(static_cast<std::uint16_t>(pair));
  }
  static NADAM_XLA_INLINE float odd(const std::uint32_t pair) {
    return of_float16(static_cast<std::uint16_t>(pair >> 16));
  }
  static NADAM_XLA_INLINE std::uint32_t of(const float even, const float odd) {
    return to_float16(even) | static_cast<std::uint32_t>(to_float16(odd)) << 16;
  }
};

#if defined(__AVX512F__)
// The processor's own conversions, which heed no flushing of subnormals.
NADAM_XLA_INLINE void decode_float16(const void* const from, float* const to) {
  for (std::int64_t i = 0; i < kHalf; i += 16) {
    const __m512i pairs = _mm512_loadu_si512(static_cast<const char*>(from) + 4 * i);
    const __m256i even = _mm512_cvtepi32_epi16(pairs);
    const __m256i odd = _mm512_cvtepi32_epi16(_mm512_srli_epi32(pairs, 16));
    _mm512_store_ps(to + i, _mm512_cvtph_ps(even));
    _mm512_store_ps(to + kHalf + i, _mm512_cvtph_ps(odd));
  }
}

NADAM_XLA_INLINE void encode_float16(const float* const from, void* const to) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  for (std::int64_t i = 0; i < kHalf; i += 16) {
    const __m256i even = _mm512_cvtps_ph(_mm512_load_ps(from + i), kNearest);
    const __m256i odd = _mm512_cvtps_ph(_mm512_load_ps(from + kHalf + i), kNearest);
    const __m512i above = _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16);
    _mm512_storeu_si512(static_cast<char*>(to) + 4 * i,
                        _mm512_or_si512(_mm512_cvtepu16_epi32(even), above));
  }
}
#endif

// ---- decoders -----------------------------------------------------------------------------------

template <typename Stored, typename T>
void decode_wide(const Decoding<T>& of, const int buffer) {
  const auto* const stored = static_cast<const Stored*>(of.from);
  T* const to = of.to[buffer];
  prefetch(stored, kBlock * static_cast<std::int64_t>(sizeof(Stored)));
#pragma omp simd
  for (std::int64_t i = 0; i < kHalf; ++i) {
    to[i] = static_cast<T>(stored[2 * i]);
    to[kHalf + i] = static_cast<T>(stored[2 * i + 1]);
  }
}

template <Storage kStorage, typename T>
NADAM_XLA_INLINE void decode_pairs(const void* const from, T* const to) {
  const auto* const pairs = static_cast<const PairOf16*>(from);
#pragma omp simd
  for (std::int64_t i = 0; i < kHalf; ++i) {
    const std::uint32_t pair = pairs[i];
    to[i] = static_cast<T>(Pair<kStorage>::even(pair));
    to[kHalf + i] = static_cast<T>(Pair<kStorage>::odd(pair));
  }
}

template <Storage kStorage, typename T>
void decode_narrow(const Decoding<T>& of, const int buffer) {
  prefetch(of.from, kBlock * static_cast<std::int64_t>(sizeof(std::uint16_t)));
#if defined(__AVX512F__)
  if constexpr (kStorage == Storage::kF16 && sizeof(T) == sizeof(float)) {
    return decode_float16(of.from, of.to[buffer]);
  }
#endif
  decode_pairs<kStorage>(of.from, of.to[buffer]);
}

// A float32 of a bfloat16 and the kBits bits of it that are stored beside it.
template <int kBits, typename PairOfRemainders, typename T>
void decode_joined(const Decoding<T>& of, const int buffer) {
  const auto* const pairs = static_cast<const PairOf16*>(of.from);
  const auto* const remainders = static_cast<const PairOfRemainders*>(of.master);
  T* const to = of.to[buffer];
  prefetch(pairs, kBlock * static_cast<std::int64_t>(sizeof(std::uint16_t)));
  prefetch(remainders, kHalf * static_cast<std::int64_t>(sizeof(PairOfRemainders)));
#pragma omp simd
  for (std::int64_t i = 0; i < kHalf; ++i) {
    const std::uint32_t pair = pairs[i], remainder = remainders[i];
    to[i] = static_cast<T>(joined<kBits>(pair << 16, remainder << (32 - kBits)));
    to[kHalf + i] =
        static_cast<T>(joined<kBits>(pair & 0xffff0000u, remainder >> kBits << (32 - kBits)));
  }
}

template <typename T>
Decoder<T> decoder_of(const Storage storage) {
  switch (storage) {
    case Storage::kF32:
      return &decode_wide<float, T>;
    case Storage::kF64:
      return &decode_wide<double, T>;
    case Storage::kBF16:
      return &decode_narrow<Storage::kBF16, T>;
    case Storage::kF16:
      return &decode_narrow<Storage::kF16, T>;
    case Storage::kRemainder16:
      return &decode_joined<16, PairOf16, T>;
    default:
      return &decode_joined<8, PairOf8, T>;
  }
}

// ---- encoders -----------------------------------------------------------------------------------

template <typename Stored, typename T>
void encode_wide(const Encoding<T>& of, const int buffer) {
  const T* const from = of.from[buffer];
  auto* const stored = static_cast<Stored*>(of.to);
#pragma omp simd
  for (std::int64_t i = 0; i < kHalf; ++i) {
    stored[2 * i] = static_cast<Stored>(from[i]);
    stored[2 * i + 1] = static_cast<Stored>(from[kHalf + i]);
  }
}

template <Storage kStorage, typename T>
void encode_narrow(const Encoding<T>& of, const int buffer) {
  const T* const from = of.from[buffer];
  auto* const pairs = static_cast<PairOf16*>(of.to);
#if defined(__AVX512F__)
  if constexpr (kStorage == Storage::kF16 && sizeof(T) == sizeof(float)) {
    return encode_float16(from, of.to);
  }
#endif
#pragma omp simd
  for (std::int64_t i = 0; i < kHalf; ++i) {
    pairs[i] = Pair<kStorage>::of(static_cast<float>(from[i]), static_cast<float>(from[kHalf + i]));
  }
}

// Stochastic rounding. The numbers at the end of the range are seldom there; to look at each of
// them costs more than to do a block that has some once more.
template <typename T>
void encode_bfloat16_drawn(const Encoding<T>& of, const int buffer) {
  const T* const from = of.from[buffer];
  const std::uint32_t* const draws = of.draws;
  auto* const pairs = static_cast<PairOf16*>(of.to);
  std::uint32_t largest = 0;
#pragma omp simd reduction(max : largest)
  for (std::int64_t i = 0; i < kHalf; ++i) {
    const std::uint32_t even = bits_of(static_cast<float>(from[i]));
    const std::uint32_t odd = bits_of(static_cast<float>(from[kHalf + i]));
    const std::uint32_t larger = even << 1 > odd << 1 ? even << 1 : odd << 1;
    largest = larger > largest ? larger : largest;
    pairs[i] = (even + (draws[i] & 0xffff)) >> 16 | ((odd + (draws[i] >> 16)) & 0xffff0000u);
  }
  if (!is_at_end_of_bfloat16(float_of(largest >> 1))) return;
  for (std::int64_t i = 0; i < kHalf; ++i) {
    const std::uint32_t even = to_bfloat16(static_cast<float>(from[i]), draws[i] & 0xffff);
    const std::uint32_t odd = to_bfloat16(static_cast<float>(from[kHalf + i]), draws[i] >> 16);
    pairs[i] = even | odd << 16;
  }
}

template <typename T>
void encode_float16_drawn(const Encoding<T>& of, const int buffer) {
  const T* const from = of.from[buffer];
  const std::uint32_t* const draws = of.draws;
  auto* const pairs = static_cast<PairOf16*>(of.to);
#pragma omp simd
  for (std::int64_t i = 0; i < kHalf; ++i) {
    const std::uint32_t even = to_float16(static_cast<float>(from[i]), draws[i] & 0xffff);
    const std::uint32_t odd = to_float16(static_cast<float>(from[kHalf + i]), draws[i] >> 16);
    pairs[i] = even | odd << 16;
  }
}

template <int kBits, typename PairOfRemainders, typename T>
void encode_split(const Encoding<T>& of, const int buffer) {
  const T* const from = of.from[buffer];
  auto* const pairs = static_cast<PairOf16*>(of.to);
  auto* const remainders = static_cast<PairOfRemainders*>(of.master);
#pragma omp simd
  for (std::int64_t i = 0; i < kHalf; ++i) {
    const Split even = split<kBits>(static_cast<float>(from[i]));
    const Split odd = split<kBits>(static_cast<float>(from[kHalf + i]));
    pairs[i] = even.upper >> 16 | (odd.upper & 0xffff0000u);
    remainders[i] = static_cast<PairOfRemainders>(even.remainder | odd.remainder << kBits);
  }
}

// A remainder of eight bits is that of a number which is rounded for it.
template <bool kDrawn, typename T>
void encode_corrected(const Encoding<T>& of, const int buffer) {
  T* const numbers = of.from[buffer];
  const std::uint32_t* const draws = of.draws;
#pragma omp simd
  for (std::int64_t i = 0; i < kHalf; ++i) {
    const auto even = static_cast<float>(numbers[i]);
    const auto odd = static_cast<float>(numbers[kHalf + i]);
    numbers[i] = static_cast<T>(kDrawn ? to_24_bits(even, draws[i] & 0xff) : to_24_bits(even));
    numbers[kHalf + i] =
        static_cast<T>(kDrawn ? to_24_bits(odd, draws[i] >> 16 & 0xff) : to_24_bits(odd));
  }
  encode_split<8, PairOf8>(of, buffer);
}

// Beside a full master.
template <Storage kStorage, typename T>
void encode_with_full_master(const Encoding<T>& of, const int buffer) {
  Encoding<T> master = of;
  master.to = of.master;
  encode_wide<float>(master, buffer);
  encode_narrow<kStorage>(of, buffer);
}

template <typename T>
Encoder<T> encoder_of(const Storage storage, const Rounding rounding) {
  const bool is_drawn = rounding == Rounding::kStochastic;
  switch (storage) {
    case Storage::kF32:
      return &encode_wide<float, T>;
    case Storage::kF64:
      return &encode_wide<double, T>;
    case Storage::kBF16:
      return is_drawn ? &encode_bfloat16_drawn<T> : &encode_narrow<Storage::kBF16, T>;
    default:
      return is_drawn ? &encode_float16_drawn<T> : &encode_narrow<Storage::kF16, T>;
  }
}

// Of parameters with a master.
template <typename T>
Encoder<T> encoder_with_master_of(const Storage storage, const Storage master,
                                  const Rounding rounding) {
  switch (master) {
    case Storage::kRemainder16:
      return &encode_split<16, PairOf16, T>;
    case Storage::kRemainder8:
      return rounding == Rounding::kStochastic ? &encode_corrected<true, T>
                                               : &encode_corrected<false, T>;
    default:
      return storage == Storage::kBF16 ? &encode_with_full_master<Storage::kBF16, T>
                                       : &encode_with_full_master<Storage::kF16, T>;
  }
}

// The parameters as they would be stored, less as they were.
template <Storage kStorage, typename T>
void encode_change(const Encoding<T>& of, const int buffer) {
  alignas(64) std::uint16_t stored[kBlock];
  alignas(64) T before[kBlock];
  alignas(64) T after[kBlock];
  Encoding<T> params = of;
  params.to = stored;
  of.encode_params(params, buffer);
  decode_pairs<kStorage>(stored, after);
  decode_pairs<kStorage>(of.before, before);
#pragma omp simd
  for (std::int64_t i = 0; i < kBlock; ++i) after[i] -= before[i];
  Encoding<T> difference = of;
  difference.from[buffer] = after;
  of.encode_difference(difference, buffer);
}

}  // namespace
}  // namespace nadam_xla::cpu
