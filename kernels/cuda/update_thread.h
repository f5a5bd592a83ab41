// A thread of a launch of the update, which tests run on the host too.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/update_computed.h"
#include "kernels/cuda/update_launch.h"
#include "kernels/cuda/update_stored.h"

namespace nadam_xla::cuda {

// All that one thread of one block does.
template <Returns kReturns, typename T, typename OneLeaf, std::size_t kCapacity>
NADAM_XLA_INLINE void run_update_thread(const UpdateLaunch<T, OneLeaf, kCapacity>& launch,
                                        const std::int32_t block, const std::int32_t thread) {
  const std::int64_t numbered = std::int64_t{kTilesOfBlock} * block + thread / kWarp;
  if (numbered >= launch.tiles) return;
  const auto tile = static_cast<std::int32_t>(numbered);
  const std::int32_t place = leaf_of(tile, launch.first_tiles, launch.leaves);
  const OneLeaf& leaf = launch.leaf[place];
  const std::int32_t in_leaf = tile - launch.first_tiles[place];
  if (is_short(leaf.length())) {
    update_short_tile<kReturns>(launch, leaf, in_leaf, thread % kWarp);
  } else {
    update_tile<kReturns>(launch, leaf, in_leaf, thread % kWarp);
  }
}

}  // namespace nadam_xla::cuda
