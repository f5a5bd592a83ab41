// What a thread does with leaves that are stored as they are computed. No thread waits for another,
// so that tests can run all of them on the host, one after the other.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/update_launch.h"

namespace nadam_xla::cuda {

// They have no average: leaves that do are StoredLeafs, however they are stored.
inline constexpr int kComputedStreams = rule_streams(Averaging::kOff);
inline constexpr int kComputedStates = rule_states(Averaging::kOff);
inline constexpr int kComputedResults = rule_results(Averaging::kOff);

template <typename T>
NADAM_XLA_INLINE Streams<T> part_of(const Streams<T>& streams, const std::int64_t offset,
                                    const std::int64_t length) {
  Streams<T> part;
  NADAM_XLA_UNROLL
  for (int i = 0; i < kComputedStreams; ++i) part.in[i] = streams.in[i] + offset;
  NADAM_XLA_UNROLL
  for (int i = 0; i < kComputedResults; ++i) part.out[i] = streams.out[i] + offset;
  part.length = length;
  return part;
}

// The streams of the entry.
template <typename T>
NADAM_XLA_INLINE Streams<T> entry_of(const Streams<T>& streams, const Entry& entry) {
  if (entry.index == nullptr) return streams;
  const std::int64_t offset = offset_of(entry, streams.length);
  Streams<T> part = streams;
  NADAM_XLA_UNROLL
  for (int i = 0; i < kComputedResults; ++i) {
    part.in[static_cast<int>(stream_of_result(i))] += offset;
    part.out[i] += offset;
  }
  return part;
}

// Updates `count` of the widest packs, the first at element `begin`.
template <Returns kReturns, typename T>
NADAM_XLA_INLINE void update_packs(const Row<T>& row, const Streams<T>& s, const std::int32_t begin,
                                   const std::int32_t count, const std::int32_t lane) {
  constexpr int kPack = kWidest<T>;
  for (std::int32_t first = lane; first < count; first += kWarp * kUpdateUnroll) {
    Pack<T, kPack> packs[kUpdateUnroll][kComputedStreams];
    // All loads come before the first use: what is in flight together hides the memory's latency.
    NADAM_XLA_UNROLL
    for (int u = 0; u < kUpdateUnroll; ++u) {
      const std::int32_t pack = first + u * kWarp;
      const std::int32_t i = begin + pack * kPack;
      if (pack < count) {
        NADAM_XLA_UNROLL
        for (int stream = 0; stream < kComputedStreams; ++stream) {
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
        Pack<T, kPack>(&results)[kComputedStreams] = packs[u];
        NADAM_XLA_UNROLL
        for (int k = 0; k < kPack; ++k) {
          Element<T, Averaging::kOff> element;
          NADAM_XLA_UNROLL
          for (int stream = 0; stream < kComputedStreams; ++stream) {
            element.of[stream] = packs[u][stream].at[k];
          }
          const auto to = update_rule(row, element);
          results[0].at[k] = kReturns == Returns::kParams ? to.params : to.change;
          NADAM_XLA_UNROLL
          for (int which = 0; which < kComputedStates; ++which)
            results[1 + which].at[k] = to.states[which];
        }
        NADAM_XLA_UNROLL
        for (int result = 0; result < kComputedResults; ++result)
          store(s.out[result] + i, results[result]);
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
    const T* const params = s.in[0];
    if (kReturns == Returns::kChange) s.out[0][i] = kNoChange<T>;
    if (kReturns == Returns::kParams && s.out[0] != params) s.out[0][i] = params[i];
    NADAM_XLA_UNROLL
    for (int k = 0; k < kComputedStates; ++k) {
      const T* const before = s.in[static_cast<int>(state(k))];
      if (s.out[1 + k] != before) s.out[1 + k][i] = before[i];
    }
  }
}

template <typename T>
NADAM_XLA_INLINE PackedParts parts_of(const Streams<T>& s, const std::int32_t length) {
  const std::int32_t misaligned = misalignment(s.in[0]);
  bool alike = true;
  NADAM_XLA_UNROLL
  for (int i = 1; i < kComputedStreams; ++i) alike = alike && misalignment(s.in[i]) == misaligned;
  NADAM_XLA_UNROLL
  for (int i = 0; i < kComputedResults; ++i) alike = alike && misalignment(s.out[i]) == misaligned;
  return alike ? packed_parts<T>(misaligned, length) : PackedParts{length, 0, 0};
}

// An entry's call returns parameters. (To ask for it in the others would cost them registers.)
template <Returns kReturns, typename T, std::size_t kCapacity>
NADAM_XLA_INLINE Streams<T> streams_of(const UpdateLaunch<T, ComputedLeaf<T>, kCapacity>& launch,
                                       const ComputedLeaf<T>& leaf) {
  Streams<T> streams = leaf.streams;
  if constexpr (kReturns == Returns::kParams) streams = entry_of(streams, launch.entry);
  NADAM_XLA_UNROLL
  for (int i = 0; i < kComputedStreams; ++i) assume_global(streams.in[i]);
  NADAM_XLA_UNROLL
  for (int i = 0; i < kComputedResults; ++i) assume_global(streams.out[i]);
  return streams;
}

// A tile of one entry.
template <Returns kReturns, typename T, std::size_t kCapacity>
NADAM_XLA_INLINE void update_tile(const UpdateLaunch<T, ComputedLeaf<T>, kCapacity>& launch,
                                  const ComputedLeaf<T>& leaf, const std::int32_t tile,
                                  const std::int32_t lane) {
  const std::int64_t length = leaf.streams.length;
  const Stretch stretch = stretch_of(tile, length, ComputedLeaf<T>::kTile);
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
NADAM_XLA_INLINE void update_short_tile(const UpdateLaunch<T, ComputedLeaf<T>, kCapacity>& launch,
                                        const ComputedLeaf<T>& leaf, const std::int32_t tile,
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

}  // namespace nadam_xla::cuda
