#include "kernels/cpu/sum_squares.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "kernels/cpu/chunk_plan.h"
#include "kernels/cpu/instruction_set.h"

namespace nadam_xla::cpu {
namespace {

// As for so many threads, whatever their number is: it must not show in the sums.
constexpr std::int64_t kThreadsOfPlan = 16;

// What a stretch adds to a sum that has others.
struct Part {
  std::size_t sum = 0;
  double value = 0;  // 0 where there is no such stretch
};

// The first stretch of a chunk may go on with an entry, and another chunk may go on with its last
// one. All others have the whole of their entry.
constexpr std::size_t kPartsOfChunk = 2;

}  // namespace

template <typename T>
void sum_squares(const SumSquaresCall<T>& call, const Pool& pool) {
  const ChunkPlan plan = plan_of(call.leaves, call.batch, kThreadsOfPlan);
  const SumSquaresLoop<T> loop = sum_squares_loop<T>();
  const std::size_t leaves = call.leaves.size();
  // For entries without elements, which no chunk has.
  std::fill_n(call.results, leaves * static_cast<std::size_t>(call.batch), T{0});
  std::vector<Part> parts(kPartsOfChunk * static_cast<std::size_t>(plan.count()));
  const auto run = [&](const std::int64_t chunk) {
    std::size_t place = kPartsOfChunk * static_cast<std::size_t>(chunk);
    plan.for_each_stretch(
        chunk, [&](std::int64_t leaf, std::int64_t entry, std::int64_t begin, std::int64_t length) {
          const auto& [data, stored, entry_length] = call.leaves[leaf];
          const std::int64_t before = (entry * entry_length + begin) * size_of(stored);
          const double value = loop(static_cast<const char*>(data) + before, stored, length);
          const std::size_t sum = entry * leaves + leaf;
          if (length == entry_length) {
            call.results[sum] = result_of<T>(call.what, value);
          } else {
            parts[place++] = {sum, value};
          }
        });
  };
  run_chunks(plan.count(), run, pool);

  // The parts of a sum follow one another, with none of another sum between them.
  std::size_t sum = 0;
  double total = 0;
  for (const Part& part : parts) {
    if (part.value == 0) continue;
    total = part.sum == sum ? total + part.value : part.value;
    sum = part.sum;
    call.results[sum] = result_of<T>(call.what, total);
  }
}

template void sum_squares(const SumSquaresCall<float>&, const Pool&);
template void sum_squares(const SumSquaresCall<double>&, const Pool&);

}  // namespace nadam_xla::cpu
