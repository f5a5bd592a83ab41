#include "kernels/cpu/update.h"

#include "kernels/cpu/chunk_plan.h"
#include "kernels/cpu/instruction_set.h"
#include "kernels/update_rule.h"

namespace nadam_xla::cpu {
namespace {

// Elements in a chunk: long enough that taking one from the shared counter costs nothing, short
// enough that threads finish together.
constexpr std::int64_t kChunkLength = 32 * 1024;
static_assert(kChunkLength % ChunkPlan::kAlignment == 0);

template <typename T>
Streams<T> stretch_of(const Streams<T>& leaf, std::int64_t offset, std::int64_t length) {
  return {leaf.params + offset,  leaf.grads + offset,  leaf.mu + offset,     leaf.nu + offset,
          leaf.updated + offset, leaf.mu_out + offset, leaf.nu_out + offset, length};
}

}  // namespace

template <typename T>
void update(const UpdateCall<T>& call, const Pool& pool) {
  std::vector<std::int64_t> lengths;
  lengths.reserve(call.leaves.size());
  for (const Streams<T>& leaf : call.leaves) lengths.push_back(leaf.length);
  const ChunkPlan plan(std::move(lengths), call.batch, kChunkLength);
  const UpdateLoop<T> loop = update_loop<T>();

  const auto update_chunk = [&](std::int64_t chunk) {
    plan.for_each_stretch(chunk, [&](std::int64_t leaf, std::int64_t entry, std::int64_t begin,
                                     std::int64_t length) {
      const Streams<T>& streams = call.leaves[leaf];
      const std::int64_t row = entry * call.rows + (call.rows == 1 ? 0 : leaf);
      loop(call.coefficients + row * kRowLength,
           stretch_of(streams, entry * streams.length + begin, length), call.returns);
    });
  };
  run_chunks(plan.count(), update_chunk, pool);
}

template void update<float>(const UpdateCall<float>&, const Pool&);
template void update<double>(const UpdateCall<double>&, const Pool&);

}  // namespace nadam_xla::cpu
