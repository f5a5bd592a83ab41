// Elements that one instruction loads or stores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/host_device.h"

namespace nadam_xla::cuda {

// The elements of the widest load that every GPU has: 16 bytes.
template <typename T>
inline constexpr int kWidest = 16 / sizeof(T);

// It may stand for elements of T anywhere in memory, whatever they were written as.
template <typename T, int kElements>
struct alignas(kElements * sizeof(T)) Pack {
  T at[kElements];
} __attribute__((may_alias));

// Says that the address is in the device's memory: nvcc does not see it of one from an array.
NADAM_XLA_INLINE void assume_global([[maybe_unused]] const void* const address) {
#if defined(__CUDA_ARCH__)
  __builtin_assume(__isGlobal(address));
#endif
}

// The address must be a multiple of the pack's size.
template <int kElements, typename T>
NADAM_XLA_INLINE Pack<T, kElements> load(const T* const from) {
  return *reinterpret_cast<const Pack<T, kElements>*>(from);
}

// The address must be a multiple of the pack's size.
template <typename T, int kElements>
NADAM_XLA_INLINE void store(T* const to, const Pack<T, kElements>& stored) {
#if defined(__CUDA_ARCH__)
  // By hand: nvcc takes the assignment of a vector apart, element by element.
  const std::size_t address = __cvta_generic_to_global(to);
  if constexpr (kElements == 4 && std::is_same_v<T, std::uint32_t>) {
    const auto& [a, b, c, d] = stored.at;
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};"
                 :
                 : "l"(address), "r"(a), "r"(b), "r"(c), "r"(d)
                 : "memory");
  } else if constexpr (kElements == 2 && std::is_same_v<T, std::uint32_t>) {
    const auto& [a, b] = stored.at;
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" : : "l"(address), "r"(a), "r"(b) : "memory");
  } else if constexpr (kElements == 4) {
    const auto& [a, b, c, d] = stored.at;
    asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};"
                 :
                 : "l"(address), "f"(a), "f"(b), "f"(c), "f"(d)
                 : "memory");
  } else if constexpr (kElements == 2) {
    const auto& [a, b] = stored.at;
    asm volatile("st.global.v2.f64 [%0], {%1, %2};" : : "l"(address), "d"(a), "d"(b) : "memory");
  } else {
    *to = stored.at[0];
  }
#else
  *reinterpret_cast<Pack<T, kElements>*>(to) = stored;
#endif
}

// How many elements an address is beyond a multiple of the widest pack.
template <typename T>
NADAM_XLA_INLINE std::int32_t misalignment(const T* const address) {
  return static_cast<std::int32_t>(reinterpret_cast<std::uintptr_t>(address) / sizeof(T) %
                                   kWidest<T>);
}

// A stretch: single elements, then the widest packs, then single elements.
struct PackedParts {
  std::int32_t head;
  std::int32_t packs;
  std::int32_t tail;
};

template <typename T>
NADAM_XLA_INLINE PackedParts packed_parts(const std::int32_t misaligned,
                                          const std::int32_t length) {
  const std::int32_t to_boundary = misaligned == 0 ? 0 : kWidest<T> - misaligned;
  const std::int32_t head = to_boundary < length ? to_boundary : length;
  const std::int32_t packs = (length - head) / kWidest<T>;
  return {head, packs, length - head - packs * kWidest<T>};
}

}  // namespace nadam_xla::cuda
