// How the leaves of a call are spread over launches, and those over blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "kernels/host_device.h"

namespace nadam_xla::cuda {

// What the parameters of a launch may hold, in bytes.
inline constexpr std::size_t kSmallParameters = 4096;  // with every toolkit
#if !defined(CUDART_VERSION) || CUDART_VERSION >= 12010
inline constexpr std::size_t kLargestParameters = 32764;
#else
inline constexpr std::size_t kLargestParameters = kSmallParameters;
#endif

// How many leaves a launch holds in so many bytes: beside each stands the number of its first
// block. `of_one`: the size of the parameters for one leaf.
constexpr std::size_t leaves_in(const std::size_t bytes, const std::size_t of_one,
                                const std::size_t of_leaf) {
  return 1 + (bytes - of_one) / (of_leaf + sizeof(std::int32_t));
}

inline constexpr std::int64_t kMostBlocks = 0x7fffffff;  // of a launch, on every GPU

// What one block works on: `length` elements from element `begin` of a leaf's batch entry.
struct Stretch {
  std::int64_t entry;
  std::int64_t begin;
  std::int32_t length;
};

// How many blocks a batch entry of this length takes.
NADAM_XLA_INLINE std::int64_t blocks_of_entry(const std::int64_t length,
                                              const std::int64_t chunk_length) {
  return (length + chunk_length - 1) / chunk_length;
}

// The stretch of a leaf's block, which is counted from the first of that leaf. A chunk has less
// than 2**31 elements.
NADAM_XLA_INLINE Stretch stretch_of(const std::int32_t block, const std::int64_t length,
                                    const std::int64_t chunk_length) {
  const auto in_entry = static_cast<std::int32_t>(blocks_of_entry(length, chunk_length));
  const std::int32_t entry = block / in_entry;
  const std::int64_t begin = (block - entry * in_entry) * chunk_length;
  const std::int64_t left = length - begin;
  return {entry, begin, static_cast<std::int32_t>(left < chunk_length ? left : chunk_length)};
}

// The place of the leaf that a block belongs to: the last one whose first block is not after it.
// Leaves without blocks are never found.
NADAM_XLA_INLINE std::int32_t leaf_of(const std::int32_t block,
                                      const std::int32_t* const first_blocks,
                                      const std::int32_t leaves) {
  std::int32_t found = 0;
  std::int32_t beyond = leaves;
  while (beyond - found > 1) {
    const std::int32_t middle = (found + beyond) / 2;
    (first_blocks[middle] <= block ? found : beyond) = middle;
  }
  return found;
}

struct PlannedLeaf {
  std::size_t index;  // in the call
  std::int32_t first_block;
};

struct PlannedLaunch {
  std::vector<PlannedLeaf> leaves;
  std::int32_t blocks = 0;
};

// Deals the leaves, in their order, to as few launches as hold them.
class LaunchPlan {
 public:
  // capacity: how many leaves a launch holds.
  LaunchPlan(const std::int64_t batch, const std::int64_t chunk_length, const std::size_t capacity)
      : batch_(batch), chunk_length_(chunk_length), capacity_(capacity) {}

  // `length`: the elements of one batch entry. Throws std::invalid_argument for a leaf of more
  // blocks than a launch can have.
  void add_leaf(const std::size_t index, const std::int64_t length) {
    const std::int64_t blocks = batch_ * blocks_of_entry(length, chunk_length_);
    if (blocks > kMostBlocks) throw std::invalid_argument("a leaf is too large for one launch");
    if (launches_.empty() || launches_.back().leaves.size() == capacity_ ||
        launches_.back().blocks > kMostBlocks - blocks) {
      launches_.emplace_back();
    }
    PlannedLaunch& launch = launches_.back();
    launch.leaves.push_back({index, launch.blocks});
    launch.blocks += static_cast<std::int32_t>(blocks);
  }

  const std::vector<PlannedLaunch>& launches() const { return launches_; }

 private:
  std::int64_t batch_;
  std::int64_t chunk_length_;
  std::size_t capacity_;
  std::vector<PlannedLaunch> launches_;
};

}  // namespace nadam_xla::cuda
