// The launches of an update, and what one of their threads does. No thread waits for another, so
// that tests can run all of them on the host, one after the other.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/launch_plan.h"
#include "kernels/cuda/pack.h"
#include "kernels/update_call.h"
#include "kernels/update_rule.h"

namespace nadam_xla::cuda {

inline constexpr int kUpdateUnroll = 2;  // packs of each stream that a thread has in flight

// The elements of a tile: 2 KiB of each stream, two rounds of a warp.
template <typename T>
inline constexpr std::int32_t kUpdateTile = 2 * kWarp * kUpdateUnroll * kWidest<T>;

// The elements of a tile of short entries, which stand side by side: four rounds of a warp.
inline constexpr std::int32_t kShortUpdateTile = 4 * kWarp;

template <typename T>
struct UpdateLeaf {
  Streams<T> streams;  // `length` counts the elements of one batch entry
  std::int64_t row;    // in a batch entry's part of the table
};

// The parameters of a launch.
template <typename T, std::size_t kCapacity>
struct UpdateLaunch {
  const T* coefficients;  // [batch][rows][format.length]
  RowFormat format;
  StreamSet streams = StreamSet::with_params();
  std::int64_t batch;
  std::int64_t rows;
  Entry entry;
  std::int32_t tiles;
  std::int32_t leaves;
  std::int32_t first_tiles[kCapacity];
  UpdateLeaf<T> leaf[kCapacity];
};

template <typename T, std::size_t kBytes>
inline constexpr std::size_t kUpdateCapacity =
    leaves_in(kBytes, sizeof(UpdateLaunch<T, 1>), sizeof(UpdateLeaf<T>));

constexpr std::int64_t update_tiles(const std::int64_t batch, const std::int64_t length,
                                    const std::int64_t tile_length) {
  return is_short(length) ? divided_up(batch * length, kShortUpdateTile)
                          : batch * divided_up(length, tile_length);
}

template <typename T>
LaunchPlan plan_of(const UpdateCall<T>& call, const std::size_t capacity) {
  LaunchPlan plan(capacity);
  for (std::size_t i = 0; i < call.leaves.size(); ++i) {
    const std::int64_t tiles = update_tiles(call.batch, call.leaves[i].length, kUpdateTile<T>);
    if (tiles != 0) plan.add_leaf(i, tiles);
  }
  return plan;
}

// `planned` must have kCapacity leaves at most.
template <std::size_t kCapacity, typename T>
UpdateLaunch<T, kCapacity> launch_of(const UpdateCall<T>& call, const PlannedLaunch& planned) {
  UpdateLaunch<T, kCapacity> launch;
  launch.coefficients = call.coefficients;
  launch.format = call.format;
  launch.streams = call.streams;
  launch.batch = call.batch;
  launch.rows = call.rows;
  launch.entry = call.entry;
  launch.tiles = planned.tiles;
  launch.leaves = static_cast<std::int32_t>(planned.leaves.size());
  for (std::size_t place = 0; place < planned.leaves.size(); ++place) {
    const auto [index, first_tile] = planned.leaves[place];
    launch.first_tiles[place] = first_tile;
    launch.leaf[place] = {call.leaves[index], call.row_of(static_cast<std::int64_t>(index))};
  }
  return launch;
}

// Updates `count` of the widest packs, the first at element `begin`.
template <Returns kReturns, typename T>
NADAM_XLA_INLINE void update_packs(const Row<T>& row, const Streams<T>& s, const std::int32_t begin,
                                   const std::int32_t count, const std::int32_t lane) {
  constexpr int kPack = kWidest<T>;
  for (std::int32_t first = lane; first < count; first += kWarp * kUpdateUnroll) {
    Pack<T, kPack> packs[kUpdateUnroll][kStreams];
    // All loads come before the first use: what is in flight together hides the memory's latency.
    NADAM_XLA_UNROLL
    for (int u = 0; u < kUpdateUnroll; ++u) {
      const std::int32_t pack = first + u * kWarp;
      const std::int32_t i = begin + pack * kPack;
      if (pack < count) {
        NADAM_XLA_UNROLL
        for (int stream = 0; stream < kStreams; ++stream) {
          packs[u][stream] = load<kPack>(s.in[stream] + i);
        }
      }
    }
    NADAM_XLA_UNROLL
    for (int u = 0; u < kUpdateUnroll; ++u) {
      const std::int32_t pack = first + u * kWarp;
      const std::int32_t i = begin + pack * kPack;
      if (pack < count) {
        // In the place of what they are made of: registers of their own would be too many.
        Pack<T, kPack>(&results)[kStreams] = packs[u];
        NADAM_XLA_UNROLL
        for (int k = 0; k < kPack; ++k) {
          Element<T> element;
          NADAM_XLA_UNROLL
          for (int stream = 0; stream < kStreams; ++stream) {
            element.of[stream] = packs[u][stream].at[k];
          }
          const Updated<T> to = update_rule(row, element);
          results[0].at[k] = kReturns == Returns::kParams ? to.params : to.change;
          NADAM_XLA_UNROLL
          for (int which = 0; which < kStates; ++which) results[1 + which].at[k] = to.states[which];
        }
        NADAM_XLA_UNROLL
        for (int result = 0; result < kResults; ++result) store(s.out[result] + i, results[result]);
      }
    }
  }
}

// Updates the elements before and after the packs.
template <Returns kReturns, typename T>
NADAM_XLA_INLINE void update_rest(const Row<T>& row, const Streams<T>& s, const PackedParts& parts,
                                  const std::int32_t lane) {
  const std::int32_t packed = parts.packs * kWidest<T>;
  for (std::int32_t i = lane; i < parts.head + parts.tail; i += kWarp) {
    update_element<kReturns>(row, s, i < parts.head ? i : i + packed);
  }
}

template <Returns kReturns, typename T>
NADAM_XLA_INLINE void skip(const Streams<T>& s, const std::int32_t lane) {
  for (std::int64_t i = lane; i < s.length; i += kWarp) {
    const T* const params = s[Stream::kParams];
    if (kReturns == Returns::kChange) s.out[0][i] = kNoChange<T>;
    if (kReturns == Returns::kParams && s.out[0] != params) s.out[0][i] = params[i];
    NADAM_XLA_UNROLL
    for (int k = 0; k < kStates; ++k) {
      const T* const before = s[state(k)];
      if (s.out[1 + k] != before) s.out[1 + k][i] = before[i];
    }
  }
}

template <typename T>
NADAM_XLA_INLINE PackedParts parts_of(const Streams<T>& s, const std::int32_t length) {
  const std::int32_t misaligned = misalignment(s.in[0]);
  bool alike = true;
  NADAM_XLA_UNROLL
  for (int i = 1; i < kStreams; ++i) alike = alike && misalignment(s.in[i]) == misaligned;
  NADAM_XLA_UNROLL
  for (int i = 0; i < kResults; ++i) alike = alike && misalignment(s.out[i]) == misaligned;
  return alike ? packed_parts<T>(misaligned, length) : PackedParts{length, 0, 0};
}

template <typename T, std::size_t kCapacity>
NADAM_XLA_INLINE Row<T> row_of(const UpdateLaunch<T, kCapacity>& launch, const UpdateLeaf<T>& leaf,
                               const std::int64_t entry) {
  const std::int64_t row = entry * launch.rows + leaf.row;
  return read_row(launch.coefficients + row * launch.format.length, launch.format, launch.streams);
}

// An entry's call returns parameters. (To ask for it in the others would cost them registers.)
template <Returns kReturns, typename T, std::size_t kCapacity>
NADAM_XLA_INLINE Streams<T> streams_of(const UpdateLaunch<T, kCapacity>& launch,
                                       const UpdateLeaf<T>& leaf) {
  Streams<T> streams = leaf.streams;
  if constexpr (kReturns == Returns::kParams) streams = entry_of(streams, launch.entry);
  NADAM_XLA_UNROLL
  for (int i = 0; i < kStreams; ++i) assume_global(streams.in[i]);
  NADAM_XLA_UNROLL
  for (int i = 0; i < kResults; ++i) assume_global(streams.out[i]);
  return streams;
}

// A tile of one entry.
template <Returns kReturns, typename T, std::size_t kCapacity>
NADAM_XLA_INLINE void update_tile(const UpdateLaunch<T, kCapacity>& launch,
                                  const UpdateLeaf<T>& leaf, const std::int32_t tile,
                                  const std::int32_t lane) {
  const std::int64_t length = leaf.streams.length;
  const Stretch stretch = stretch_of(tile, length, kUpdateTile<T>);
  const Streams<T> streams = part_of(streams_of<kReturns>(launch, leaf),
                                     stretch.entry * length + stretch.begin, stretch.length);
  const Row<T> row = row_of(launch, leaf, stretch.entry);
  if (row.skip) {
    skip<kReturns>(streams, lane);
    return;
  }
  const PackedParts parts = parts_of(streams, stretch.length);
  update_packs<kReturns>(row, streams, parts.head, parts.packs, lane);
  update_rest<kReturns>(row, streams, parts, lane);
}

// A tile of several entries, each with a row of its own.
template <Returns kReturns, typename T, std::size_t kCapacity>
NADAM_XLA_INLINE void update_short_tile(const UpdateLaunch<T, kCapacity>& launch,
                                        const UpdateLeaf<T>& leaf, const std::int32_t tile,
                                        const std::int32_t lane) {
  const Streams<T> streams = streams_of<kReturns>(launch, leaf);
  const std::int64_t length = streams.length;
  const std::int64_t begin = static_cast<std::int64_t>(tile) * kShortUpdateTile;
  const std::int64_t left = launch.batch * length - begin;
  const std::int64_t end = begin + (left < kShortUpdateTile ? left : kShortUpdateTile);
  for (std::int64_t i = begin + lane; i < end; i += kWarp) {
    const Row<T> row = row_of(launch, leaf, i / length);
    if (row.skip) {
      skip<kReturns>(part_of(streams, i, 1), 0);
    } else {
      update_element<kReturns>(row, streams, i);
    }
  }
}

// All that one thread of one block does.
template <Returns kReturns, typename T, std::size_t kCapacity>
NADAM_XLA_INLINE void run_update_thread(const UpdateLaunch<T, kCapacity>& launch,
                                        const std::int32_t block, const std::int32_t thread) {
  const std::int64_t numbered = std::int64_t{kTilesOfBlock} * block + thread / kWarp;
  if (numbered >= launch.tiles) return;
  const auto tile = static_cast<std::int32_t>(numbered);
  const std::int32_t place = leaf_of(tile, launch.first_tiles, launch.leaves);
  const UpdateLeaf<T>& leaf = launch.leaf[place];
  const std::int32_t in_leaf = tile - launch.first_tiles[place];
  if (is_short(leaf.streams.length)) {
    update_short_tile<kReturns>(launch, leaf, in_leaf, thread % kWarp);
  } else {
    update_tile<kReturns>(launch, leaf, in_leaf, thread % kWarp);
  }
}

}  // namespace nadam_xla::cuda
