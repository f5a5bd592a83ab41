// One fused Nadam step over the leaves of a call.
#pragma once

#include <cstdint>
#include <utility>

#include "kernels/cpu/chunk_plan.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/update_call.h"

namespace nadam_xla::cpu {

// The chunks of a call, to be run in any order and on any threads, each once.
template <typename T>
class UpdateWork {
 public:
  // threads: how many will share it.
  UpdateWork(UpdateCall<T> call, std::int64_t threads);
  std::int64_t chunks() const { return plan_.count(); }
  void run(std::int64_t chunk) const;

 private:
  UpdateCall<T> call_;
  ChunkPlan plan_;
  UpdateLoop<T> loop_;
};

// The same where moments are stored in codes: chunks of whole blocks.
class BlockwiseWork {
 public:
  BlockwiseWork(UpdateCall<float> call, std::int64_t threads);
  std::int64_t chunks() const { return plan_.count(); }
  void run(std::int64_t chunk) const;

 private:
  UpdateCall<float> call_;
  ChunkPlan plan_;
  BlockwiseLoop loop_;
};

extern template class UpdateWork<float>;
extern template class UpdateWork<double>;

// Runs the whole call, sharing it with the pool's threads.
template <typename T>
void update(UpdateCall<T> call, const Pool& pool) {
  const auto run = [&pool](const auto& work) {
    run_chunks(work.chunks(), [&work](std::int64_t chunk) { work.run(chunk); }, pool);
  };
  if constexpr (kStorageOf<T> == Storage::kF32) {
    if (!call.scales.empty()) return run(BlockwiseWork(std::move(call), pool.threads()));
  }
  run(UpdateWork<T>(std::move(call), pool.threads()));
}

}  // namespace nadam_xla::cpu
