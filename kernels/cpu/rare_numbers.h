// What codec.h does not know, one number after the other, for it is rare: to encode NaN, or what
// lies from the largest finite bfloat16 on, and to decode a zero whose remainder is stale. Part of
// loops.cpp, whose rules hold here.
#pragma once

#include <cstdint>

#include "kernels/cpu/codec.h"
#include "kernels/cpu/halves.h"
#include "kernels/storage.h"

namespace nadam_xla::cpu {
namespace {

// Where an element of the step, counted as in memory, stands in it.
NADAM_XLA_INLINE std::int64_t place_of(const std::int64_t element) {
  return element % 2 * kPairs + element / 2;
}

NADAM_XLA_INLINE std::uint32_t draw_of(const std::uint32_t* const draws,
                                       const std::int64_t element) {
  return element % 2 == 0 ? of_even(draws[element / 2]) : of_odd(draws[element / 2]);
}

template <int kBits, typename Remainder, typename T>
void join_rare(const void* const from, const void* const master, T* const to) {
  const auto* const stored = static_cast<const std::uint16_t*>(from);
  const auto* const remainders = static_cast<const Remainder*>(master);
  for (std::int64_t i = 0; i < kStep; ++i) {
    const std::uint32_t bfloat16 = stored[i], remainder = remainders[i];
    to[place_of(i)] = static_cast<T>(joined<kBits>(bfloat16 << 16, remainder << (32 - kBits)));
  }
}

// Of parameters with a remainder; a full master has no rare numbers.
template <typename T>
void decode_rare(const void* const params, const Storage master_storage, const void* const master,
                 T* const to) {
  if (master_storage == Storage::kRemainder16) join_rare<16, std::uint16_t>(params, master, to);
  if (master_storage == Storage::kRemainder8) join_rare<8, std::uint8_t>(params, master, to);
}

template <typename T>
void encode_rare(const Storage storage, const T* const from, void* const to,
                 const std::uint32_t* const draws) {
  if (storage != Storage::kBF16) return encode(storage, from, to, draws);
  auto* const stored = static_cast<std::uint16_t*>(to);
  for (std::int64_t i = 0; i < kStep; ++i) {
    const auto x = static_cast<float>(from[place_of(i)]);
    stored[i] = draws == nullptr ? to_bfloat16(x) : to_bfloat16(x, draw_of(draws, i));
  }
}

template <int kBits, typename Remainder, typename T>
void split_rare(const T* const from, void* const to, void* const master,
                const std::uint32_t* const draws) {
  auto* const stored = static_cast<std::uint16_t*>(to);
  auto* const remainders = static_cast<Remainder*>(master);
  for (std::int64_t i = 0; i < kStep; ++i) {
    float x = static_cast<float>(from[place_of(i)]);
    if (kBits == 8) x = draws == nullptr ? to_24_bits(x) : to_24_bits(x, draw_of(draws, i) & 0xff);
    const Split kept = split<kBits>(x);
    stored[i] = static_cast<std::uint16_t>(kept.upper >> 16);
    remainders[i] = static_cast<Remainder>(kept.remainder);
  }
}

template <typename T>
void encode_rare_with_master(const Storage storage, const Storage master_storage,
                             const T* const from, void* const to, void* const master,
                             const std::uint32_t* const draws) {
  switch (master_storage) {
    case Storage::kRemainder16:
      return split_rare<16, std::uint16_t>(from, to, master, nullptr);
    case Storage::kRemainder8:
      return split_rare<8, std::uint8_t>(from, to, master, draws);
    default:
      encode_wide<float>(from, master);
      return encode_rare(storage, from, to, nullptr);
  }
}

}  // namespace
}  // namespace nadam_xla::cpu
