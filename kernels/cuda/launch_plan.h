// How the leaves of a call are spread over launches, and those over tiles, each a warp's work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "kernels/host_device.h"

namespace nadam_xla::cuda {

// What the parameters of a launch may hold, in bytes.
inline constexpr std::size_t kSmallParameters = 4096;
inline constexpr std::size_t kLargestParameters = 32764;  // from CUDA 12.1 on

// How many leaves a launch holds in so many bytes: beside each stands the number of its first
// tile. `of_one`: the size of the parameters for one leaf.
constexpr std::size_t leaves_in(const std::size_t bytes, const std::size_t of_one,
                                const std::size_t of_leaf) {
  return 1 + (bytes - of_one) / (of_leaf + sizeof(std::int32_t));
}

inline constexpr std::int32_t kWarp = 32;
inline constexpr std::int32_t kThreads = 256;  // of a block
inline constexpr std::int32_t kTilesOfBlock = kThreads / kWarp;
inline constexpr std::int64_t kMostTiles = 0x7fffffff;  // of a launch

NADAM_XLA_INLINE constexpr std::int64_t divided_up(const std::int64_t a, const std::int64_t b) {
  return (a + b - 1) / b;
}

// What one warp works on: `length` elements from element `begin` of a leaf's batch entry.
struct Stretch {
  std::int64_t entry;
  std::int64_t begin;
  std::int32_t length;
};

// Entries with fewer elements than a warp has lanes: a tile takes several of them. A population of
// scalars would else have a warp for each.
NADAM_XLA_INLINE constexpr bool is_short(const std::int64_t entry_length) {
  return entry_length < kWarp;
}

// The stretch of a leaf's tile, which is counted from the first of that leaf, whose entries are not
// short. A tile has less than 2**31 elements.
NADAM_XLA_INLINE Stretch stretch_of(const std::int32_t tile, const std::int64_t length,
                                    const std::int64_t tile_length) {
  const auto in_entry = static_cast<std::int32_t>(divided_up(length, tile_length));
  const std::int32_t entry = tile / in_entry;
  const std::int64_t begin = (tile - entry * in_entry) * tile_length;
  const std::int64_t left = length - begin;
  return {entry, begin, static_cast<std::int32_t>(left < tile_length ? left : tile_length)};
}

// The place of the leaf that a tile belongs to: the last one whose first tile is not after it.
// Leaves without tiles are never found.
NADAM_XLA_INLINE std::int32_t leaf_of(const std::int32_t tile,
                                      const std::int32_t* const first_tiles,
                                      const std::int32_t leaves) {
  std::int32_t found = 0;
  std::int32_t beyond = leaves;
  while (beyond - found > 1) {
    const std::int32_t middle = (found + beyond) / 2;
    (first_tiles[middle] <= tile ? found : beyond) = middle;
  }
  return found;
}

struct PlannedLeaf {
  std::size_t index;  // in the call
  std::int32_t first_tile;
};

struct PlannedLaunch {
  std::vector<PlannedLeaf> leaves;
  std::int32_t tiles = 0;

  std::int64_t blocks() const { return divided_up(tiles, kTilesOfBlock); }
};

// Deals the leaves, in their order, to as few launches as hold them.
class LaunchPlan {
 public:
  // capacity: how many leaves a launch holds.
  explicit LaunchPlan(const std::size_t capacity) : capacity_(capacity) {}

  // Throws std::invalid_argument for a leaf of more tiles than a launch can have.
  void add_leaf(const std::size_t index, const std::int64_t tiles) {
    if (tiles > kMostTiles) throw std::invalid_argument("a leaf is too large for one launch");
    if (launches_.empty() || launches_.back().leaves.size() == capacity_ ||
        launches_.back().tiles > kMostTiles - tiles) {
      launches_.emplace_back();
    }
    PlannedLaunch& launch = launches_.back();
    launch.leaves.push_back({index, launch.tiles});
    launch.tiles += static_cast<std::int32_t>(tiles);
  }

  const std::vector<PlannedLaunch>& launches() const { return launches_; }

 private:
  std::size_t capacity_;
  std::vector<PlannedLaunch> launches_;
};

}  // namespace nadam_xla::cuda
