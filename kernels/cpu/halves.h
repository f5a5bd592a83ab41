// Float32 numbers as two numbers of 16 bits, in the lanes of vectors. Part of loops.cpp, whose
// rules hold here.
//
// A float32 is a bfloat16 above 16 bits more, so to round one, or to take one apart, is arithmetic
// of 16 bits. A vector has twice as many lanes of these as it has of floats, which halves the work.
#pragma once

#if defined(__AVX512BW__)
#include "kernels/cpu/intrinsics.h"
#endif

#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/storage.h"

namespace nadam_xla::cpu {
namespace {

#if defined(__AVX512BW__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif
inline constexpr std::int64_t kWordsOfVector = kVectorBytes / 4;

// The same vector, as numbers of 32 bits and of 16. The lower half of a word is the even lane.
using Words = std::uint32_t __attribute__((vector_size(kVectorBytes)));
using Halves = std::uint16_t __attribute__((vector_size(kVectorBytes)));
using SignedHalves = std::int16_t __attribute__((vector_size(kVectorBytes)));

NADAM_XLA_INLINE Words words_at(const void* const from) {
  Words words;
  __builtin_memcpy(&words, from, sizeof(words));
  return words;
}

NADAM_XLA_INLINE Halves halves_at(const void* const from) {
  return reinterpret_cast<Halves>(words_at(from));
}

template <typename Vector>
NADAM_XLA_INLINE void store(const Vector vector, void* const to) {
  __builtin_memcpy(to, &vector, sizeof(vector));
}

// As many numbers of 16 bits as there are words.
using HalfAVector = std::uint16_t __attribute__((vector_size(kVectorBytes / 2)));

NADAM_XLA_INLINE Words widened(const void* const from) {
  HalfAVector numbers;
  __builtin_memcpy(&numbers, from, sizeof(numbers));
  return __builtin_convertvector(numbers, Words);
}

// The lower halves of words.
NADAM_XLA_INLINE void store_narrowed(const Words words, void* const to) {
  store(__builtin_convertvector(words, HalfAVector), to);
}

// The upper halves of two vectors of floats, and the lower ones, those of an even and an odd number
// side by side.
struct HalvesOfFloats {
  Halves upper, lower;
};

NADAM_XLA_INLINE HalvesOfFloats halves_of(const Words even, const Words odd) {
  return {reinterpret_cast<Halves>(even >> 16 | (odd & 0xffff0000u)),
          reinterpret_cast<Halves>((even & 0xffffu) | odd << 16)};
}

NADAM_XLA_INLINE Words even_floats(const HalvesOfFloats x) {
  return reinterpret_cast<Words>(x.upper) << 16 | (reinterpret_cast<Words>(x.lower) & 0xffffu);
}

NADAM_XLA_INLINE Words odd_floats(const HalvesOfFloats x) {
  return (reinterpret_cast<Words>(x.upper) & 0xffff0000u) | reinterpret_cast<Words>(x.lower) >> 16;
}

// The float32 of a bfloat16, as its upper half, and of the remainder beside it, as the lower one:
// `joined` of kernels/storage.h, but that it is NaN where the remainder is stale.
NADAM_XLA_INLINE HalvesOfFloats joined_halves(const Halves bfloat16, const Halves remainder) {
  const auto added = reinterpret_cast<SignedHalves>(remainder) >> 15;
  return {bfloat16 + reinterpret_cast<Halves>(added), remainder};
}

// x, and one more in the lanes where a is above b.
NADAM_XLA_INLINE Halves plus_one_where_above(const Halves x, const Halves a, const Halves b) {
#if defined(__AVX512BW__)
  return a > b ? x + 1 : x;
#else  // has comparisons of signed numbers alone
  const auto is_above =
      reinterpret_cast<SignedHalves>(a ^ 0x8000) > reinterpret_cast<SignedHalves>(b ^ 0x8000);
  return x - reinterpret_cast<Halves>(is_above);
#endif
}

NADAM_XLA_INLINE Halves larger_of(const Halves a, const Halves b) { return a > b ? a : b; }

// Whether any of these upper halves, without their signs and shifted up by one, is at the end of
// the range: from the largest finite bfloat16 on.
NADAM_XLA_INLINE bool any_at_end(const Halves shifted) {
  constexpr std::uint16_t kEnd = (kBfloat16Infinity - 1) << 1;
#if defined(__AVX512BW__)
  const __m512i end = _mm512_set1_epi16(static_cast<std::int16_t>(kEnd));
  return _mm512_cmpge_epu16_mask(reinterpret_cast<__m512i>(shifted), end) != 0;
#else
  bool any = false;
  for (int i = 0; i < kVectorBytes / 2; ++i) any |= shifted[i] >= kEnd;
  return any;
#endif
}

}  // namespace
}  // namespace nadam_xla::cpu
