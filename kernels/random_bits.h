// The random numbers of stochastic rounding: a function of what they are for, and of nothing else.
//
// Threefry-4x32 of 13 rounds. Source: Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers:
// as easy as 1, 2, 3", which finds it to pass TestU01's BigCrush from 12 rounds on. It needs sums,
// rotations and exclusive ors of 32 bits alone, which every compiler makes vectors of.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace nadam_xla {

// Whose numbers they are.
struct RandomKey {
  std::uint32_t seed, shard, leaf, step;
};

// What of a leaf a number is for. The two moments share their bits, in another order: the upper
// byte, which decides all but one case in 256, is the lower one of the other's.
//
// A leaf is cut into blocks of kPlaces pairs of elements. A pair has the exclusive or of two words,
// mixed: that of its place in the block, and that of its block. So a leaf of n elements draws
// little more than n / 256 words, and the numbers of any three pairs are independent. Source:
// Patrascu & Thorup 2012, "The power of simple tabulation hashing"; the mixing, without which sums
// would have heavy tails, is the first half of MurmurHash3's last step (Appleby 2011).
enum class Draw : std::uint32_t {
  kOfMoments,
  kOfParams,
  kOfCodes,
  kOfBlocksForMoments = 4,
  kOfBlocksForParams,
  kOfBlocksForCodes,
};

inline constexpr std::int64_t kPlaces = 128;
inline constexpr std::int64_t kElementsOfBlock = 2 * kPlaces;

NADAM_XLA_INLINE constexpr Draw of_blocks(const Draw of_places) {
  return static_cast<Draw>(static_cast<std::uint32_t>(of_places) + 4);
}

// The numbers of a pair: 16 bits each, that of the even element in the lower half.
NADAM_XLA_INLINE std::uint32_t numbers_of_pair(const std::uint32_t of_place,
                                               const std::uint32_t of_block) {
  std::uint32_t x = of_place ^ of_block;
  x ^= x >> 16;
  x *= 0x85ebca6b;
  return x ^ x >> 13;
}

// Four words that follow one another, the first of which is word 4 * `four`.
struct RandomCounter {
  std::uint32_t four;        // its lower half,
  std::uint32_t four_upper;  // and the upper one
  Draw draw;
};

struct RandomWords {
  std::uint32_t of[4];
};

NADAM_XLA_INLINE std::uint32_t swapped_bytes(const std::uint32_t bits) {
  return (bits << 8 | bits >> 8) & 0xffff;
}

NADAM_XLA_INLINE std::uint32_t rotated(const std::uint32_t x, const int by) {
  return x << by | x >> (32 - by);
}

NADAM_XLA_INLINE void mix(std::uint32_t& a, std::uint32_t& b, const int by) {
  a += b;
  b = rotated(b, by) ^ a;
}

NADAM_XLA_INLINE RandomWords random_words(const RandomKey& key, const RandomCounter& counter) {
  constexpr std::uint32_t kParity = 0x1bd11bda;
  const std::uint32_t k0 = key.seed, k1 = key.shard, k2 = key.leaf, k3 = key.step;
  const std::uint32_t k4 = kParity ^ k0 ^ k1 ^ k2 ^ k3;
  std::uint32_t a = counter.four + k0;
  std::uint32_t b = counter.four_upper + k1;
  std::uint32_t c = static_cast<std::uint32_t>(counter.draw) + k2;
  std::uint32_t d = k3;
  mix(a, b, 10), mix(c, d, 26), mix(a, d, 11), mix(c, b, 21);
  mix(a, b, 13), mix(c, d, 27), mix(a, d, 23), mix(c, b, 5);
  a += k1, b += k2, c += k3, d += k4 + 1;
  mix(a, b, 6), mix(c, d, 20), mix(a, d, 17), mix(c, b, 11);
  mix(a, b, 25), mix(c, d, 10), mix(a, d, 18), mix(c, b, 20);
  a += k2, b += k3, c += k4, d += k0 + 2;
  mix(a, b, 10), mix(c, d, 26), mix(a, d, 11), mix(c, b, 21);
  mix(a, b, 13), mix(c, d, 27), mix(a, d, 23), mix(c, b, 5);
  a += k3, b += k4, c += k0, d += k1 + 3;
  mix(a, b, 6), mix(c, d, 20);
  return {{a, b, c, d}};
}

}  // namespace nadam_xla
