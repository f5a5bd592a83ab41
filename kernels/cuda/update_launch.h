// The launches of an update. Those of leaves that are stored as they are computed, of leaves that
// have a moment in codes and of all others differ in what stands in them of a leaf, and in what a
// thread does with it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/blockwise.h"
#include "kernels/cuda/codec.h"
#include "kernels/cuda/launch_plan.h"
#include "kernels/cuda/pack.h"
#include "kernels/update_call.h"
#include "kernels/update_rule.h"

namespace nadam_xla::cuda {

inline constexpr int kUpdateUnroll = 2;  // packs of each stream that a thread has in flight

// The elements of a tile of short entries, which stand side by side: four rounds of a warp.
inline constexpr std::int32_t kShortUpdateTile = 4 * kWarp;

constexpr std::int64_t update_tiles(const std::int64_t batch, const std::int64_t length,
                                    const std::int64_t tile_length) {
  return is_short(length) ? divided_up(batch * length, kShortUpdateTile)
                          : batch * divided_up(length, tile_length);
}

// A leaf that is stored as it is computed.
template <typename T>
struct ComputedLeaf {
  // The elements of a tile: 2 KiB of each stream, two rounds of a warp.
  static constexpr std::int32_t kTile = 2 * kWarp * kUpdateUnroll * kWidest<T>;
  // That a multiprocessor has room for, at least: as many as the compiler finds good.
  static constexpr int kBlocks = 0;
  // What the parameters of a launch may hold, in bytes.
  static constexpr std::size_t kParameters = kLargestParameters;

  Streams<T> streams;  // `length` counts the elements of one batch entry
  std::int64_t row;    // in a batch entry's part of the table

  static ComputedLeaf of(const UpdateCall<T>& call, const std::size_t index) {
    return {as_computed<T>(call.leaves[index]), call.row_of(static_cast<std::int64_t>(index))};
  }
  static std::int64_t tiles(const UpdateCall<T>& call, const std::size_t index) {
    return update_tiles(call.batch, call.leaves[index].length, kTile);
  }
  NADAM_XLA_INLINE std::int64_t length() const { return streams.length; }
};

// A leaf that is stored in any way, with an average or without.
template <Averaging kAveraging>
struct StoredLeaf {
  // The elements of a tile: 2 KiB of bfloat16, four rounds of a warp.
  static constexpr std::int32_t kTile = 4 * kWarp * kGroup;
  // The compiler would make room for more than it has registers for.
  static constexpr int kBlocks = 1;
  // Each kernel is some 100 KiB of machine code for an architecture: one for few leaves must do.
  static constexpr std::size_t kParameters = kSmallParameters;

  Leaf leaf;
  std::int64_t row;

  template <typename T>
  static StoredLeaf of(const UpdateCall<T>& call, const std::size_t index) {
    return {call.leaves[index], call.row_of(static_cast<std::int64_t>(index))};
  }
  template <typename T>
  static std::int64_t tiles(const UpdateCall<T>& call, const std::size_t index) {
    return update_tiles(call.batch, call.leaves[index].length, kTile);
  }
  NADAM_XLA_INLINE std::int64_t length() const { return leaf.length; }
};

// A leaf of which a moment is stored in codes, with an average or without.
template <Averaging kAveraging>
struct BlockwiseLeaf {
  static constexpr Averaging kAveraged = kAveraging;
  // The blocks of a tile: so many random words of blocks are drawn together.
  static constexpr std::int32_t kTile = 4;
  // The compiler would take registers for one alone, which has too little in flight. A change and
  // an average together need more than two leave over.
  static constexpr int blocks(const Returns returns) {
    return returns == Returns::kChange && kAveraging == Averaging::kOn ? 1 : 2;
  }
  static constexpr std::size_t kParameters = kSmallParameters;

  Leaf leaf;
  std::int64_t row;
  Scales scales;

  static BlockwiseLeaf of(const UpdateCall<float>& call, const std::size_t index) {
    return {call.leaves[index], call.row_of(static_cast<std::int64_t>(index)), call.scales[index]};
  }
  static std::int64_t tiles(const UpdateCall<float>& call, const std::size_t index) {
    const std::int64_t blocks =
        blockwise::blocks_of(call.leaves[index].length, call.scales[index].columns);
    return call.batch * divided_up(blocks, kTile);
  }
  // Of one batch entry.
  NADAM_XLA_INLINE std::int64_t blocks_of_codes() const {
    return blockwise::blocks_of(leaf.length, scales.columns);
  }
};

// The parameters of a launch.
template <typename T, typename OneLeaf, std::size_t kCapacity>
struct UpdateLaunch {
  const T* coefficients;  // [batch][rows][format.length]
  RowFormat format;
  StreamSet streams = StreamSet::with_params();
  Rounding rounding;
  std::int64_t batch;
  std::int64_t rows;
  Entry entry;
  std::int32_t tiles;
  std::int32_t leaves;
  std::int32_t first_tiles[kCapacity];
  OneLeaf leaf[kCapacity];
};

template <typename T, typename OneLeaf, std::size_t kBytes>
inline constexpr std::size_t kUpdateCapacity =
    leaves_in(kBytes, sizeof(UpdateLaunch<T, OneLeaf, 1>), sizeof(OneLeaf));

template <typename OneLeaf, typename T>
LaunchPlan plan_of(const UpdateCall<T>& call, const std::size_t capacity) {
  LaunchPlan plan(capacity);
  for (std::size_t i = 0; i < call.leaves.size(); ++i) {
    if (const std::int64_t tiles = OneLeaf::tiles(call, i); tiles != 0) plan.add_leaf(i, tiles);
  }
  return plan;
}

// `planned` must have kCapacity leaves at most.
template <typename OneLeaf, std::size_t kCapacity, typename T>
UpdateLaunch<T, OneLeaf, kCapacity> launch_of(const UpdateCall<T>& call,
                                              const PlannedLaunch& planned) {
  UpdateLaunch<T, OneLeaf, kCapacity> launch;
  launch.coefficients = call.coefficients;
  launch.format = call.format;
  launch.streams = call.streams;
  launch.rounding = call.rounding;
  launch.batch = call.batch;
  launch.rows = call.rows;
  launch.entry = call.entry;
  launch.tiles = planned.tiles;
  launch.leaves = static_cast<std::int32_t>(planned.leaves.size());
  for (std::size_t place = 0; place < planned.leaves.size(); ++place) {
    const auto [index, first_tile] = planned.leaves[place];
    launch.first_tiles[place] = first_tile;
    launch.leaf[place] = OneLeaf::of(call, index);
  }
  return launch;
}

// Calls with the leaf that a warp of a block works on, and the number of its tile in that leaf; for
// a warp that is left over, not at all.
template <typename T, typename OneLeaf, std::size_t kCapacity, typename Work>
NADAM_XLA_INLINE void with_tile(const UpdateLaunch<T, OneLeaf, kCapacity>& launch,
                                const std::int32_t block, const std::int32_t warp,
                                const Work& work) {
  const std::int64_t numbered = std::int64_t{kTilesOfBlock} * block + warp;
  if (numbered >= launch.tiles) return;
  const auto tile = static_cast<std::int32_t>(numbered);
  const std::int32_t place = leaf_of(tile, launch.first_tiles, launch.leaves);
  work(launch.leaf[place], tile - launch.first_tiles[place]);
}

// The coefficients of a leaf in a batch entry.
template <typename T, typename OneLeaf, std::size_t kCapacity>
NADAM_XLA_INLINE const T* coefficients_of(const UpdateLaunch<T, OneLeaf, kCapacity>& launch,
                                          const OneLeaf& leaf, const std::int64_t entry) {
  const std::int64_t row = entry * launch.rows + leaf.row;
  return launch.coefficients + row * launch.format.length;
}

template <typename T, typename OneLeaf, std::size_t kCapacity>
NADAM_XLA_INLINE Row<T> row_of(const UpdateLaunch<T, OneLeaf, kCapacity>& launch,
                               const OneLeaf& leaf, const std::int64_t entry) {
  return read_row(coefficients_of(launch, leaf, entry), launch.format, launch.streams);
}

// Whether every leaf of a call can be a ComputedLeaf.
template <typename T>
bool is_stored_as_computed(const UpdateCall<T>& call) {
  if (call.streams.has(Stream::kAverage)) return false;
  for (const Leaf& leaf : call.leaves) {
    if (!is_stored_as_computed<T>(leaf, call.streams)) return false;
  }
  return true;
}

}  // namespace nadam_xla::cuda
