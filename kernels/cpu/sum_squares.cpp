#include "kernels/cpu/sum_squares.h"

#include <cstddef>
#include <vector>

#include "kernels/cpu/chunk_plan.h"
#include "kernels/cpu/instruction_set.h"

namespace nadam_xla::cpu {
namespace {

// As for so many threads, whatever their number is: it must not show in the sums.
constexpr std::int64_t kThreadsOfPlan = 16;

// What a stretch adds to the sum at `sum`; a part that no stretch uses adds nothing.
struct Part {
  std::size_t sum = 0;
  double value = 0;
};

}  // namespace

template <typename T>
void sum_squares(const SumSquaresCall<T>& call, const Pool& pool) {
  const ChunkPlan plan = plan_of(call.leaves, call.batch, kThreadsOfPlan);
  const SumSquaresLoop<T> loop = sum_squares_loop<T>();
  const std::size_t leaves = call.leaves.size();
  const std::size_t sums = leaves * static_cast<std::size_t>(call.batch);
  // From one stretch of the line to the next, the chunk or the leaf's batch entry grows, and never
  // shrinks: together they number the parts, in the stretches' order.
  std::vector<Part> parts(sums + static_cast<std::size_t>(plan.count()));
  const auto run = [&](const std::int64_t chunk) {
    plan.for_each_stretch(
        chunk, [&](std::int64_t leaf, std::int64_t entry, std::int64_t begin, std::int64_t length) {
          const auto& [data, stored, entry_length] = call.leaves[leaf];
          const std::int64_t before = (entry * entry_length + begin) * size_of(stored);
          const std::size_t place = chunk + leaf * call.batch + entry;
          const void* const x = static_cast<const char*>(data) + before;
          parts[place] = {entry * leaves + leaf, loop(x, stored, length)};
        });
  };
  run_chunks(plan.count(), run, pool);

  std::vector<double> totals(sums);
  for (const Part& part : parts) {
    if (part.value != 0) totals[part.sum] += part.value;
  }
  for (std::size_t i = 0; i < sums; ++i) {
    call.results[i] = result_of<T>(call.what, totals[i]);
  }
}

template void sum_squares(const SumSquaresCall<float>&, const Pool&);
template void sum_squares(const SumSquaresCall<double>&, const Pool&);

}  // namespace nadam_xla::cpu
