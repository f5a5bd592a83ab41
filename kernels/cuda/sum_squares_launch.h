// The launches of the sums of squares, and what one of their threads adds up, which tests run on
// the host.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include "kernels/cuda/codec.h"
#include "kernels/cuda/launch_plan.h"
#include "kernels/cuda/pack.h"
#include "kernels/host_device.h"
#include "kernels/sum_squares_call.h"

namespace nadam_xla::cuda {

inline constexpr int kSumUnroll = 4;  // packs that a thread has in flight

// The memory in which tiles leave their parts of the sums.
struct Workspace {
  double* parts;
  std::int64_t count;
};

struct SumSquaresLeaf {
  const void* data;
  std::int64_t length;  // the elements of one batch entry
  std::int32_t index;   // in the call
  Storage stored;
};

// The parameters of a launch.
template <typename T, std::size_t kCapacity>
struct SumSquaresLaunch {
  T* results;  // [batch][leaves_in_call]
  std::int64_t leaves_in_call;
  std::int64_t batch;
  std::int64_t tile_length;
  double* parts;  // of this launch, one of each tile
  std::int32_t tiles;
  std::int32_t leaves;
  OfSquares what;
  std::int32_t first_tiles[kCapacity];
  SumSquaresLeaf leaf[kCapacity];
};

template <typename T, std::size_t kBytes>
inline constexpr std::size_t kSumSquaresCapacity =
    leaves_in(kBytes, sizeof(SumSquaresLaunch<T, 1>), sizeof(SumSquaresLeaf));

constexpr std::int64_t sum_tiles(const std::int64_t batch, const std::int64_t length,
                                 const std::int64_t tile_length) {
  return is_short(length) ? divided_up(batch, kWarp) : batch * divided_up(length, tile_length);
}

// The elements of a tile, as few as the workspace allows: all tiles but one of each batch entry of
// each leaf are full. Throws std::invalid_argument for a workspace that is too small.
template <typename T>
std::int64_t sum_squares_tile(const SumSquaresCall<T>& call, const std::int64_t parts) {
  constexpr std::int64_t kShortest = kWarp * kSumUnroll * kWidest<T>;
  constexpr std::int64_t kLongest = std::int64_t{1} << 30;
  std::int64_t last = 0;
  std::int64_t elements = 0;
  for (const auto& leaf : call.leaves) {
    last += sum_tiles(call.batch, leaf.length, leaf.length);
    if (!is_short(leaf.length)) elements += call.batch * leaf.length;
  }
  const std::int64_t needed = last + divided_up(elements, kLongest);
  if (parts < needed) {
    throw std::invalid_argument("the workspace has " + std::to_string(parts * sizeof(double)) +
                                " bytes; it must have at least " +
                                std::to_string(needed * sizeof(double)));
  }
  const std::int64_t length = divided_up(elements, std::max<std::int64_t>(1, parts - last));
  return std::max(kShortest, divided_up(length, kShortest) * kShortest);
}

// Leaves without elements have their tiles too: their sums are zero.
template <typename T>
LaunchPlan plan_of(const SumSquaresCall<T>& call, const std::int64_t tile_length,
                   const std::size_t capacity) {
  LaunchPlan plan(capacity);
  for (std::size_t i = 0; i < call.leaves.size(); ++i) {
    plan.add_leaf(i, sum_tiles(call.batch, call.leaves[i].length, tile_length));
  }
  return plan;
}

// `planned` must have kCapacity leaves at most.
template <std::size_t kCapacity, typename T>
SumSquaresLaunch<T, kCapacity> launch_of(const SumSquaresCall<T>& call,
                                         const PlannedLaunch& planned,
                                         const std::int64_t tile_length, double* const parts) {
  SumSquaresLaunch<T, kCapacity> launch;
  launch.results = call.results;
  launch.what = call.what;
  launch.leaves_in_call = static_cast<std::int64_t>(call.leaves.size());
  launch.batch = call.batch;
  launch.tile_length = tile_length;
  launch.parts = parts;
  launch.tiles = planned.tiles;
  launch.leaves = static_cast<std::int32_t>(planned.leaves.size());
  for (std::size_t place = 0; place < planned.leaves.size(); ++place) {
    const auto [index, first_tile] = planned.leaves[place];
    const auto& leaf = call.leaves[index];
    launch.first_tiles[place] = first_tile;
    launch.leaf[place] = {leaf.data, leaf.length, static_cast<std::int32_t>(index), leaf.stored};
  }
  return launch;
}

// The sum of a pack's squares, in T; in double where that is more than T can hold.
template <typename T, int kPack, typename Stored, typename Number>
NADAM_XLA_INLINE double sum_of_pack(const Pack<Stored, kPack>& pack, const Number& number) {
  constexpr T kLargest = std::numeric_limits<T>::max();
  T squares = 0;
  NADAM_XLA_UNROLL
  for (int k = 0; k < kPack; ++k) {
    const T value = number(pack.at[k]);
    squares += value * value;
  }
  if (squares <= kLargest) return static_cast<double>(squares);
  double in_double = 0;
  for (int k = 0; k < kPack; ++k) {
    const double value = number(pack.at[k]);
    in_double += value * value;
  }
  return in_double;
}

// What one thread adds up of `count` packs of kPack stored elements, each of which `number`
// decodes. Squares of a pack are summed in T, all else in double: no thread adds up so many that
// rounding would show.
template <typename T, int kPack, typename Stored, typename Number>
NADAM_XLA_INLINE double sum_packs(const Stored* const x, const std::int64_t count,
                                  const std::int32_t lane, const Number& number) {
  double total = 0;
  for (std::int64_t first = lane; first < count; first += kWarp * kSumUnroll) {
    Pack<Stored, kPack> pack[kSumUnroll];
    NADAM_XLA_UNROLL
    for (int u = 0; u < kSumUnroll; ++u) {
      const std::int64_t i = first + u * kWarp;
      pack[u] = i < count ? load<kPack>(x + i * kPack) : Pack<Stored, kPack>{};
    }
    NADAM_XLA_UNROLL
    for (int u = 0; u < kSumUnroll; ++u) total += sum_of_pack<T>(pack[u], number);
  }
  return total;
}

// What one lane adds up of a stretch, which begins at `x`.
template <typename T, typename Stored, typename Number>
NADAM_XLA_INLINE double sum_of_stretch(const Stored* const x, const std::int32_t length,
                                       const std::int32_t lane, const Number& number) {
  const PackedParts parts = packed_parts<Stored>(misalignment(x), length);
  const Stored* const tail = x + (length - parts.tail);
  return sum_packs<T, kWidest<Stored>>(x + parts.head, parts.packs, lane, number) +
         sum_packs<T, 1>(x, parts.head, lane, number) +
         sum_packs<T, 1>(tail, parts.tail, lane, number);
}

// The same of an entry that is a lane's whole work.
template <typename T, typename Stored, typename Number>
NADAM_XLA_INLINE double sum_of_short_entry(const Stored* const x, const std::int64_t length,
                                           const Number& number) {
  double total = 0;
  for (std::int64_t i = 0; i < length; ++i) {
    total += sum_of_pack<T>(Pack<Stored, 1>{{x[i]}}, number);
  }
  return total;
}

// Calls with the address of a leaf's element `i`, and with what decodes an element.
template <typename T, typename Body>
NADAM_XLA_INLINE double with_decoder(const SumSquaresLeaf& leaf, const std::int64_t i,
                                     const Body& body) {
  if constexpr (kStorageOf<T> == Storage::kF32) {
    const auto* const narrow = static_cast<const std::uint16_t*>(leaf.data) + i;
    if (leaf.stored == Storage::kBF16) {
      return body(narrow, [](const std::uint16_t of) { return of_bfloat16(of); });
    }
    if (leaf.stored == Storage::kF16) {
      return body(narrow, [](const std::uint16_t of) { return of_float16(of); });
    }
  }
  return body(static_cast<const T*>(leaf.data) + i, [](const T of) { return of; });
}

// The sum of one short entry, which is a lane's whole work.
template <typename T, std::size_t kCapacity>
NADAM_XLA_INLINE void write_short_sum(const SumSquaresLaunch<T, kCapacity>& launch,
                                      const SumSquaresLeaf& leaf, const std::int64_t entry) {
  if (entry >= launch.batch) return;
  const double total =
      with_decoder<T>(leaf, entry * leaf.length, [&](const auto* const x, const auto& number) {
        return sum_of_short_entry<T>(x, leaf.length, number);
      });
  launch.results[entry * launch.leaves_in_call + leaf.index] = result_of<T>(launch.what, total);
}

// What one lane adds to its tile's part.
template <typename T, std::size_t kCapacity>
NADAM_XLA_INLINE double sum_of_lane(const SumSquaresLaunch<T, kCapacity>& launch,
                                    const std::int32_t tile, const std::int32_t lane) {
  const std::int32_t place = leaf_of(tile, launch.first_tiles, launch.leaves);
  const SumSquaresLeaf& leaf = launch.leaf[place];
  const std::int32_t in_leaf = tile - launch.first_tiles[place];
  if (is_short(leaf.length)) {
    write_short_sum(launch, leaf, std::int64_t{kWarp} * in_leaf + lane);
    return 0;
  }
  const Stretch stretch = stretch_of(in_leaf, leaf.length, launch.tile_length);
  return with_decoder<T>(leaf, stretch.entry * leaf.length + stretch.begin,
                         [&](const auto* const x, const auto& number) {
                           return sum_of_stretch<T>(x, stretch.length, lane, number);
                         });
}

// The parts of one sum; none where the tiles have written it themselves. `sum` counts the launch's
// sums, a leaf's batch entries side by side.
struct PartsOfSum {
  const double* begin;
  std::int64_t count;
  std::int64_t index;  // of the sum among those of the call
};

template <typename T, std::size_t kCapacity>
NADAM_XLA_INLINE PartsOfSum parts_of_sum(const SumSquaresLaunch<T, kCapacity>& launch,
                                         const std::int64_t sum) {
  const std::int64_t place = sum / launch.batch;
  const std::int64_t entry = sum % launch.batch;
  const SumSquaresLeaf& leaf = launch.leaf[place];
  const std::int64_t count =
      is_short(leaf.length) ? 0 : divided_up(leaf.length, launch.tile_length);
  return {launch.parts + launch.first_tiles[place] + entry * count, count,
          entry * launch.leaves_in_call + leaf.index};
}

}  // namespace nadam_xla::cuda
