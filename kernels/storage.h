// How numbers are stored: what stands in memory, and how it becomes a number of the rule and back.
//
// Every conversion is written in integers, or in sums of numbers that are not subnormal, so that a
// thread that flushes subnormals to zero, as XLA's do, gives the same bits as one that does not.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/host_device.h"

namespace nadam_xla {

enum class Storage : std::uint8_t {
  kF32,
  kF64,
  kBF16,
  kF16,
  // Of master weights alone: the bits of a float32 that its bfloat16 lacks, all 16 or the first 8.
  kRemainder16,
  kRemainder8,
  // Of moments alone: codes of eight bits, with a scale for each block of a row (blockwise.h).
  kBlock8Signed,
  kBlock8Unsigned,
};

NADAM_XLA_INLINE constexpr int size_of(const Storage storage) {
  switch (storage) {
    case Storage::kF64:
      return 8;
    case Storage::kF32:
      return 4;
    case Storage::kRemainder8:
    case Storage::kBlock8Signed:
    case Storage::kBlock8Unsigned:
      return 1;
    default:
      return 2;
  }
}

template <typename T>
inline constexpr Storage kStorageOf = sizeof(T) == sizeof(float) ? Storage::kF32 : Storage::kF64;

// How a number that stands between two that can be stored becomes one of them.
enum class Rounding {
  kNearest,     // ties to even
  kStochastic,  // up as often as it is near the upper one
};

NADAM_XLA_INLINE std::uint32_t bits_of(const float x) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  return bits;
}

NADAM_XLA_INLINE float float_of(const std::uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
}

NADAM_XLA_INLINE constexpr bool is_codes(const Storage storage) {
  return storage == Storage::kBlock8Signed || storage == Storage::kBlock8Unsigned;
}

inline constexpr std::uint32_t kSign = 0x80000000;
inline constexpr std::uint32_t kFloatInfinity = 0x7f800000;

// ---- bfloat16: the upper half of a float32 ------------------------------------------------------

inline constexpr std::uint32_t kBfloat16Infinity = 0x7f80;
inline constexpr std::uint32_t kBfloat16Quiet = 0x40;

NADAM_XLA_INLINE float of_bfloat16(const std::uint16_t stored) {
  return float_of(static_cast<std::uint32_t>(stored) << 16);
}

// In the upper half of the word; in the lower one there is something.
NADAM_XLA_INLINE std::uint32_t to_bfloat16_above(const float x) {
  const std::uint32_t bits = bits_of(x);
  const std::uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
  return x != x ? bits | kBfloat16Quiet << 16 : rounded;
}

NADAM_XLA_INLINE std::uint16_t to_bfloat16(const float x) {
  return static_cast<std::uint16_t>(to_bfloat16_above(x) >> 16);
}

// From the largest finite one on: what is above must become no infinity that is not the nearest.
NADAM_XLA_INLINE bool is_at_end_of_bfloat16(const float x) {
  return (bits_of(x) & ~kSign) >= (kBfloat16Infinity - 1) << 16;
}

// The draw is uniform in [0, 2^16). Infinity is what is nearest to infinity, and nothing else.
NADAM_XLA_INLINE std::uint16_t to_bfloat16(const float x, const std::uint32_t draw) {
  const auto between = static_cast<std::uint16_t>((bits_of(x) + draw) >> 16);
  return is_at_end_of_bfloat16(x) ? to_bfloat16(x) : between;
}

// ---- float16 ------------------------------------------------------------------------------------

inline constexpr std::uint32_t kFloat16Infinity = 0x7c00;

NADAM_XLA_INLINE float of_float16(const std::uint16_t stored) {
  constexpr std::uint32_t kExponent = kFloat16Infinity << 13;
  constexpr float kSmallestNormal = 6.103515625e-05f;  // 2^-14
  const std::uint32_t sign = static_cast<std::uint32_t>(stored & 0x8000) << 16;
  const std::uint32_t shifted = static_cast<std::uint32_t>(stored & 0x7fff) << 13;
  const std::uint32_t exponent = shifted & kExponent;
  const std::uint32_t normal = shifted + ((127u - 15u) << 23);
  const std::uint32_t infinite = normal + ((128u - 16u) << 23);
  // As if it had the first normal exponent, less what that exponent says.
  const float subnormal = float_of(normal + (1u << 23)) - kSmallestNormal;
  const std::uint32_t finite = exponent == 0 ? bits_of(subnormal) : normal;
  return float_of(sign | (exponent == kExponent ? infinite : finite));
}

// The bits of the nearest float16. A word: loops over words alone become better vectors.
NADAM_XLA_INLINE std::uint32_t float16_bits_of(const float x) {
  constexpr std::uint32_t kTooLarge = (127u + 16u) << 23;        // 2^16
  constexpr std::uint32_t kSmallestNormal = (127u - 14u) << 23;  // 2^-14
  constexpr float kHalf = 0.5f;  // its last place is the smallest float16
  const std::uint32_t bits = bits_of(x);
  const std::uint32_t magnitude = bits & ~kSign;
  const std::uint32_t normal =
      (magnitude - ((127u - 15u) << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
  const std::uint32_t subnormal = bits_of(float_of(magnitude) + kHalf) - bits_of(kHalf);
  const std::uint32_t nan = 0x7e00 | (magnitude >> 13 & 0x1ff);  // as the processors' own has it
  const std::uint32_t beyond = magnitude > kFloatInfinity ? nan : kFloat16Infinity;
  const std::uint32_t finite = magnitude < kSmallestNormal ? subnormal : normal;
  const std::uint32_t rounded = magnitude >= kTooLarge ? beyond : finite;
  return (bits >> 16 & 0x8000) | rounded;
}

// The draw is uniform in [0, 2^16). Infinity is what is nearest to infinity, and nothing else.
NADAM_XLA_INLINE std::uint32_t float16_bits_of(const float x, const std::uint32_t draw) {
  constexpr std::uint32_t kTooLarge = (127u + 16u) << 23;  // 2^16
  constexpr std::uint32_t kFirstExponent = 127 - 14;       // of a normal float16
  const std::uint32_t bits = bits_of(x);
  const std::uint32_t magnitude = bits & ~kSign;
  const bool is_large = magnitude >= kTooLarge;
  const std::uint32_t exponent = is_large ? kFirstExponent : magnitude >> 23;
  const std::uint32_t of_last_place = exponent < kFirstExponent ? kFirstExponent : exponent;
  // In 2^-16 of the last place: for the scale, 10 places and those 16 below the exponent.
  const float scale = float_of((127u + 127u + 10u + 16u - of_last_place) << 23);
  const float places = float_of(is_large ? 0 : magnitude) * scale;
  constexpr float kWhole = 8388608.0f;  // from 2^23 on there are no fractions
  const auto whole = static_cast<std::int32_t>(places < kWhole ? places + 0.5f : places);
  const std::uint32_t drawn = (static_cast<std::uint32_t>(whole) + draw) >> 16;
  const std::uint32_t rounded = drawn + ((of_last_place - kFirstExponent) << 10);
  const std::uint32_t nearest = float16_bits_of(x);
  const std::uint32_t sign = bits >> 16 & 0x8000;
  const bool is_finite = !is_large && rounded < kFloat16Infinity;
  return is_finite ? sign | rounded : nearest;
}

NADAM_XLA_INLINE std::uint16_t to_float16(const float x) {
  return static_cast<std::uint16_t>(float16_bits_of(x));
}
NADAM_XLA_INLINE std::uint16_t to_float16(const float x, const std::uint32_t draw) {
  return static_cast<std::uint16_t>(float16_bits_of(x, draw));
}

// ---- a float32 as a bfloat16 and a remainder ----------------------------------------------------

// A bfloat16, and the kBits bits that follow it in a float32 of which no more are kept. They are
// a signed number, which is to be added behind the bfloat16: where it is negative, the bfloat16 was
// rounded up. So ties are rounded away from zero, which can be told from the remainder alone.
struct Split {
  std::uint32_t upper;      // the bfloat16 in its upper half; in the lower one there is something
  std::uint32_t remainder;  // in its first kBits bits; in the others there is nothing
};

// What of the float32 is not kept has been rounded away. NaN stays NaN, without its payload.
template <int kBits>
NADAM_XLA_INLINE Split split(const float x) {
  const std::uint32_t bits = bits_of(x);
  const std::uint32_t remainder = bits >> (16 - kBits) & ((1u << kBits) - 1);
  const bool is_nan = x != x;
  return {is_nan ? bits | kBfloat16Quiet << 16 : bits + 0x8000, is_nan ? 0 : remainder};
}

// Both stand in the upper bits of their words, and below them there is nothing. A zero was not
// rounded up: the remainder is that of a number which somebody has overwritten.
template <int kBits>
NADAM_XLA_INLINE float joined(const std::uint32_t bfloat16, const std::uint32_t remainder) {
  const auto added = static_cast<std::uint32_t>(static_cast<std::int32_t>(remainder) >> 16);
  const bool is_stale = (bfloat16 & ~kSign) == 0 && remainder >= kSign;
  return float_of(is_stale ? bfloat16 : bfloat16 + added);
}

// The float32 nearest to x among those whose last 8 bits are zero. Infinity stays, and so does NaN.
NADAM_XLA_INLINE float to_24_bits(const float x) {
  const std::uint32_t bits = bits_of(x);
  const bool is_finite = (bits & ~kSign) < kFloatInfinity;
  return float_of(is_finite ? (bits + 0x7f + (bits >> 8 & 1)) & ~0xffu : bits);
}

// The draw is uniform in [0, 2^8). Infinity is what is nearest to infinity, and nothing else.
NADAM_XLA_INLINE float to_24_bits(const float x, const std::uint32_t draw) {
  const std::uint32_t bits = bits_of(x);
  const std::uint32_t rounded = ((bits & ~kSign) + draw) & ~0xffu;
  const std::uint32_t nearest = bits_of(to_24_bits(x));
  return float_of(rounded < kFloatInfinity ? (bits & kSign) | rounded : nearest);
}

}  // namespace nadam_xla
