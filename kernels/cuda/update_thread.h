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
  const std::int32_t lane = thread % kWarp;
  with_tile(launch, block, thread / kWarp, [&](const OneLeaf& leaf, const std::int32_t tile) {
    if (is_short(leaf.length())) {
      update_short_tile<kReturns>(launch, leaf, tile, lane);
    } else {
      update_tile<kReturns>(launch, leaf, tile, lane);
    }
  });
}

}  // namespace nadam_xla::cuda
