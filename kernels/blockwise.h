// Moments in codes of eight bits: what a code stands for, and how a number becomes one.
//
// A block is 256 neighbours of a row, or what is left of them at its end. Its scale is its largest
// magnitude. Numbers are scaled by one product, and the bits of the float32 that it gives, rounded,
// are the code: exponent and first bits of the mantissa together are one whole number.
//
// First moments are signed: as in the mu-law of telephony (ITU-T G.711) a constant is added to the
// magnitude first, so that codes near zero are evenly spaced. Second moments are not negative, and
// zero alone has the code zero.
//
// The numbers that are scaled to are such that a code stands in the bits of its float32 as it is;
// and that neither an inverse nor a factor of any scale is subnormal or infinite: a thread that
// flushes subnormals to zero gives the same bits.
//
// All constants of the codes stand here, and in nadam_xla/jax/blockwise.py.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/storage.h"

namespace nadam_xla::blockwise {

inline constexpr std::int64_t kBlock = 256;

// Of the scales of blocks that are not all zero: whatever is decoded is then zero or normal.
inline constexpr float kSmallestScale = 8.0779356694631609e-28f;  // 2^-90

// How many blocks a row of so many elements has.
NADAM_XLA_INLINE constexpr std::int64_t blocks_of(const std::int64_t columns) {
  return (columns + kBlock - 1) / kBlock;
}

// How many a leaf of so many elements has, of rows of so many.
NADAM_XLA_INLINE constexpr std::int64_t blocks_of(const std::int64_t length,
                                                  const std::int64_t columns) {
  return columns == 0 ? 0 : length / columns * blocks_of(columns);
}

// A block of a row, which may be shorter at the row's end.
struct Block {
  std::int64_t number;  // in the entry, counted through all of its rows
  std::int64_t column;  // of its first element,
  std::int64_t first;   // and the number of that in the entry
  std::int64_t length;
};

NADAM_XLA_INLINE constexpr std::int64_t length_at(const std::int64_t columns,
                                                  const std::int64_t column) {
  const std::int64_t left = columns - column;
  return left < kBlock ? left : kBlock;
}

NADAM_XLA_INLINE constexpr Block block_at(const std::int64_t columns, const std::int64_t number) {
  const std::int64_t of_row = blocks_of(columns);
  const std::int64_t row = number / of_row;
  const std::int64_t column = (number - row * of_row) * kBlock;
  return {number, column, row * columns + column, length_at(columns, column)};
}

// The block behind one, in its row or in the next. (The length is formed anew, and not read: it
// would cost a kernel registers.)
NADAM_XLA_INLINE constexpr Block block_after(const std::int64_t columns, const Block& block) {
  const std::int64_t length = length_at(columns, block.column);
  const bool is_last = block.column + length == columns;
  const std::int64_t column = is_last ? 0 : block.column + length;
  return {block.number + 1, column, block.first + length, length_at(columns, column)};
}

// NaN where an element is not finite, zero where all are zero.
//   largest: of the bits of the block's magnitudes.
NADAM_XLA_INLINE float scale_of(const std::uint32_t largest) {
  constexpr std::uint32_t kNaN = 0x7fc00000;
  const std::uint32_t smallest = bits_of(kSmallestScale);
  const std::uint32_t floored = largest < smallest ? smallest : largest;
  return float_of(largest >= kFloatInfinity ? kNaN : largest == 0 ? 0 : floored);
}

// Whether the codes of a block of this scale say anything: they are zero where it is zero or NaN.
NADAM_XLA_INLINE bool has_codes(const float scale) {
  return bits_of(scale) != 0 && bits_of(scale) < kFloatInfinity;
}

NADAM_XLA_INLINE std::uint32_t magnitude_bits(const float x) { return bits_of(x) & ~kSign; }

// What a draw of 16 bits adds below the last place of a code. Half of 2^16 rounds to the nearest.
template <typename Code>
NADAM_XLA_INLINE constexpr std::uint32_t added_by(const std::uint32_t draw) {
  return draw << (Code::kPlace - 16);
}

// First moments, from -127 to 127. The magnitude x of the scale s has the code of
// 2 + x * (494 / s), of whose mantissa 4 bits are kept: from 2, which is 0, to 496.
struct Signed {
  static constexpr float kBottom = 2;
  static constexpr float kRange = 494;
  static constexpr int kPlace = 19;  // of the last bit that is kept
  static constexpr std::uint32_t kBottomBits = 0x40000000;
  static_assert((kBottomBits >> kPlace) % 256 == 0, "The code stands in the bits as it is.");

  static NADAM_XLA_INLINE float inverse_of(const float scale) { return kRange / scale; }
  static NADAM_XLA_INLINE float factor_of(const float scale) { return scale * (1 / kRange); }

  // The code stands in the upper byte of the word; below it there is nothing.
  static NADAM_XLA_INLINE float decoded(const std::uint32_t code, const float factor) {
    const std::int32_t placed = static_cast<std::int32_t>(code) >> (24 - kPlace);
    const auto magnitude = static_cast<std::uint32_t>(placed < 0 ? -placed : placed);
    const float above = float_of(kBottomBits + magnitude) - kBottom;
    return float_of(bits_of(above * factor) | (code & kSign));
  }

  // In the lowest byte; above it there is something. `added`: below the last place.
  static NADAM_XLA_INLINE std::uint32_t encoded(const float x, const float inverse,
                                                const std::uint32_t added) {
    const float scaled = x * inverse;
    const std::uint32_t above = bits_of(float_of(magnitude_bits(scaled)) + kBottom);
    const std::uint32_t magnitude = (above + added) >> kPlace;
    return static_cast<std::int32_t>(bits_of(x)) < 0 ? 0 - magnitude : magnitude;
  }
};

// Second moments, from 0 to 248. A number x above zero, of the scale s, has the code of
// x * (2^32 / s), of whose mantissa 3 bits are kept: up to 2^32, which is 248. What is below 2.25,
// the number of almost 31 octaves less, has the code 1. A power of two, so that the largest of a
// block stays to the bit what it is.
struct Unsigned {
  static constexpr float kTop = 4294967296.0f;            // 2^32
  static constexpr int kPlace = 20;                       // of the last bit that is kept
  static constexpr std::uint32_t kZeroBits = 0x40000000;  // where zero would be
  static_assert((kZeroBits >> kPlace) % 256 == 0, "The code stands in the bits as it is.");

  static NADAM_XLA_INLINE float inverse_of(const float scale) { return kTop / scale; }
  static NADAM_XLA_INLINE float factor_of(const float scale) { return scale * (1 / kTop); }

  // The code stands in the upper byte of the word; below it there is nothing.
  static NADAM_XLA_INLINE float decoded(const std::uint32_t code, const float factor) {
    const std::uint32_t bits = kZeroBits + (code >> (24 - kPlace));
    return float_of(code == 0 ? 0 : bits) * factor;
  }

  // In the lowest byte; above it there is something. `added`: below the last place.
  static NADAM_XLA_INLINE std::uint32_t encoded(const float x, const float inverse,
                                                const std::uint32_t added) {
    constexpr auto kFirst = static_cast<std::int32_t>(kZeroBits + (1u << kPlace));
    const auto drawn = static_cast<std::int32_t>(bits_of(x * inverse) + added);
    const std::int32_t at_least = drawn < kFirst ? kFirst : drawn;
    const std::uint32_t code = static_cast<std::uint32_t>(at_least) >> kPlace;
    return static_cast<std::int32_t>(bits_of(x)) > 0 ? code : 0;
  }
};

NADAM_XLA_INLINE float factor_of(const Storage storage, const float scale) {
  return storage == Storage::kBlock8Signed ? Signed::factor_of(scale) : Unsigned::factor_of(scale);
}

// Zero where a block of this scale has no codes.
NADAM_XLA_INLINE float inverse_of(const Storage storage, const float scale) {
  if (!has_codes(scale)) return 0;
  return storage == Storage::kBlock8Signed ? Signed::inverse_of(scale)
                                           : Unsigned::inverse_of(scale);
}

}  // namespace nadam_xla::blockwise
