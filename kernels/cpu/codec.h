// Blocks of stored numbers, decoded into numbers of the rule and encoded from them: one decoder and
// one encoder for each storage. Part of loops.cpp, whose rules hold here.
//
// Each loop stands in a function of its own, reached by its address: what is inlined into one
// another gcc vectorizes only in part.
#pragma once

#include <cstdint>

#include "kernels/cpu/prefetch.h"
#include "kernels/random_bits.h"
#include "kernels/storage.h"

namespace nadam_xla::cpu {
namespace {

// The elements of a block. Short, so that the processor, which looks some hundred instructions
// ahead, decodes the next one while the divider is busy with this.
constexpr std::int64_t kBlock = 64;

template <typename T>
using Decoder = void (*)(const void* from, T* to, std::int64_t length);
template <typename T>
using Encoder = void (*)(const T* from, void* to, const std::uint16_t* draws, std::int64_t length);

template <Storage kStorage>
struct Form;

template <>
struct Form<Storage::kF32> {
  using Stored = float;
  static NADAM_XLA_INLINE float number(const float stored) { return stored; }
  static NADAM_XLA_INLINE float form(const double x) { return static_cast<float>(x); }
};

template <>
struct Form<Storage::kF64> {
  using Stored = double;
  static NADAM_XLA_INLINE double number(const double stored) { return stored; }
  static NADAM_XLA_INLINE double form(const double x) { return x; }
};

template <>
struct Form<Storage::kBF16> {
  using Stored = std::uint16_t;
  static NADAM_XLA_INLINE float number(const std::uint16_t stored) { return of_bfloat16(stored); }
  static NADAM_XLA_INLINE std::uint16_t form(const float x) { return to_bfloat16(x); }
};

template <>
struct Form<Storage::kF16> {
  using Stored = std::uint16_t;
  static NADAM_XLA_INLINE float number(const std::uint16_t stored) { return of_float16(stored); }
  static NADAM_XLA_INLINE std::uint16_t form(const float x) { return to_float16(x); }
};

// Calls with the length, which is a constant where the block is whole.
template <typename Body>
NADAM_XLA_INLINE void of_length(const std::int64_t length, const Body& body) {
  if (length == kBlock) {
    body(kBlock);
  } else {
    body(length);
  }
}

template <Storage kStorage, typename T>
void decode(const void* const from, T* const to, const std::int64_t length) {
  const auto* const stored = static_cast<const typename Form<kStorage>::Stored*>(from);
  of_length(length, [=](const std::int64_t n) {
    prefetch(stored, n * static_cast<std::int64_t>(sizeof(*stored)));
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(Form<kStorage>::number(stored[i]));
  });
}

template <Storage kStorage, typename T>
void encode(const T* const from, void* const to, const std::uint16_t* /*draws*/,
            const std::int64_t length) {
  auto* const stored = static_cast<typename Form<kStorage>::Stored*>(to);
  of_length(length, [=](const std::int64_t n) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) stored[i] = Form<kStorage>::form(from[i]);
  });
}

// Stochastic rounding.
template <typename T>
void encode_float16_drawn(const T* const from, void* const to, const std::uint16_t* const draws,
                          const std::int64_t length) {
  auto* const stored = static_cast<std::uint16_t*>(to);
  of_length(length, [=](const std::int64_t n) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
      stored[i] = to_float16(static_cast<float>(from[i]), draws[i]);
    }
  });
}

// The numbers at the end of the range are seldom there; to look at each of them costs more than to
// do a block that has some once more.
template <typename T>
void encode_bfloat16_drawn(const T* const from, void* const to, const std::uint16_t* const draws,
                           const std::int64_t length) {
  auto* const stored = static_cast<std::uint16_t*>(to);
  std::uint32_t largest = 0;
  of_length(length, [=, &largest](const std::int64_t n) {
    std::uint32_t most = 0;
#pragma omp simd reduction(max : most)
    for (std::int64_t i = 0; i < n; ++i) {
      const auto x = static_cast<float>(from[i]);
      const std::uint32_t magnitude = bits_of(x) & ~kSign;
      most = magnitude > most ? magnitude : most;
      stored[i] = to_bfloat16_between(x, draws[i]);
    }
    largest = most;
  });
  if (!is_at_end_of_bfloat16(float_of(largest))) return;
  for (std::int64_t i = 0; i < length; ++i) {
    stored[i] = to_bfloat16(static_cast<float>(from[i]), draws[i]);
  }
}

template <typename T>
Decoder<T> decoder_of(const Storage storage) {
  switch (storage) {
    case Storage::kF32:
      return &decode<Storage::kF32, T>;
    case Storage::kF64:
      return &decode<Storage::kF64, T>;
    case Storage::kBF16:
      return &decode<Storage::kBF16, T>;
    default:
      return &decode<Storage::kF16, T>;
  }
}

template <typename T>
Encoder<T> encoder_of(const Storage storage, const Rounding rounding) {
  const bool is_drawn = rounding == Rounding::kStochastic;
  switch (storage) {
    case Storage::kF32:
      return &encode<Storage::kF32, T>;
    case Storage::kF64:
      return &encode<Storage::kF64, T>;
    case Storage::kBF16:
      return is_drawn ? &encode_bfloat16_drawn<T> : &encode<Storage::kBF16, T>;
    default:
      return is_drawn ? &encode_float16_drawn<T> : &encode<Storage::kF16, T>;
  }
}

// A float32 of a bfloat16 and the kBits bits of it that are stored beside it.
template <int kBits, typename Remainder, typename T>
void join(const void* const params, const void* const master, T* const to,
          const std::int64_t length) {
  const auto* const bfloat16 = static_cast<const std::uint16_t*>(params);
  const auto* const remainder = static_cast<const Remainder*>(master);
  of_length(length, [=](const std::int64_t n) {
    prefetch(bfloat16, n * static_cast<std::int64_t>(sizeof(*bfloat16)));
    prefetch(remainder, n * static_cast<std::int64_t>(sizeof(*remainder)));
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
      to[i] = static_cast<T>(joined<kBits>({bfloat16[i], remainder[i]}));
    }
  });
}

template <int kBits, typename Remainder, typename T>
void divide(const T* const from, void* const params, void* const master,
            const std::int64_t length) {
  auto* const bfloat16 = static_cast<std::uint16_t*>(params);
  auto* const remainder = static_cast<Remainder*>(master);
  of_length(length, [=](const std::int64_t n) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
      const Split<kBits> parts = split<kBits>(static_cast<float>(from[i]));
      bfloat16[i] = parts.bfloat16;
      remainder[i] = static_cast<Remainder>(parts.remainder);
    }
  });
}

template <typename T>
void round_to_24_bits(T* const numbers, const std::int64_t length) {
  of_length(length, [=](const std::int64_t n) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
      numbers[i] = static_cast<T>(to_24_bits(static_cast<float>(numbers[i])));
    }
  });
}

template <typename T>
void round_to_24_bits(T* const numbers, const std::uint16_t* const draws,
                      const std::int64_t length) {
  of_length(length, [=](const std::int64_t n) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
      numbers[i] = static_cast<T>(to_24_bits(static_cast<float>(numbers[i]), draws[i] & 0xff));
    }
  });
}

}  // namespace
}  // namespace nadam_xla::cpu
