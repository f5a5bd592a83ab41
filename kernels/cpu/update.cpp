#include "kernels/cpu/update.h"

#include "kernels/blockwise.h"
#include "kernels/cpu/instruction_set.h"
#include "kernels/cpu/stretch_of.h"

namespace nadam_xla::cpu {
namespace {

std::int64_t blocks_of(const Leaf& leaf, const Scales& scales) {
  return blockwise::blocks_of(leaf.length, scales.columns);
}

Scales of_entry(const Scales& scales, const std::int64_t offset) {
  Scales part = scales;
  for (int i = 0; i < kMoments; ++i) {
    if (part.in[i] == nullptr) continue;
    part.in[i] += offset;
    part.out[i] += offset;
  }
  return part;
}

// On the line of chunks each block counts as a whole one.
ChunkPlan plan_of_blocks(const UpdateCall<float>& call, const std::int64_t threads) {
  const auto length = [&call](const Leaf& leaf) {
    return blocks_of(leaf, call.scales[&leaf - call.leaves.data()]) * blockwise::kBlock;
  };
  return plan_of(call.leaves, call.batch, threads, length, blockwise::kBlock);
}

}  // namespace

template <typename T>
UpdateWork<T>::UpdateWork(UpdateCall<T> call, const std::int64_t threads)
    : call_(std::move(call)),
      plan_(plan_of(call_.leaves, call_.batch, threads)),
      loop_(update_loop<T>()) {
  for (Leaf& leaf : call_.leaves) leaf = entry_of(leaf, call_.entry);
}

template <typename T>
void UpdateWork<T>::run(const std::int64_t chunk) const {
  plan_.for_each_stretch(
      chunk, [this](std::int64_t leaf, std::int64_t entry, std::int64_t begin,
                    std::int64_t length) { loop_(stretch_of(call_, leaf, entry, begin, length)); });
}

BlockwiseWork::BlockwiseWork(UpdateCall<float> call, const std::int64_t threads)
    : call_(std::move(call)),
      plan_(plan_of_blocks(call_, threads)),
      loop_(instruction_set().update_blockwise) {}

void BlockwiseWork::run(const std::int64_t chunk) const {
  plan_.for_each_stretch(chunk, [this](std::int64_t leaf, std::int64_t entry, std::int64_t begin,
                                       std::int64_t length) {
    const Leaf& whole = call_.leaves[leaf];
    const Scales& scales = call_.scales[leaf];
    loop_({stretch_of(call_, leaf, entry, 0, whole.length),
           of_entry(scales, entry * blocks_of(whole, scales)), begin / blockwise::kBlock,
           length / blockwise::kBlock});
  });
}

template class UpdateWork<float>;
template class UpdateWork<double>;

}  // namespace nadam_xla::cpu
