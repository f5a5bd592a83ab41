#include "kernels/bindings/testing_cuda_on_host.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "kernels/cuda/launch_plan.h"
#include "kernels/cuda/sum_squares_launch.h"
#include "kernels/cuda/update_launch.h"

namespace nb = nanobind;

namespace nadam_xla {
namespace {

using Block = std::tuple<std::size_t, std::int64_t, std::int64_t, std::int64_t>;

// For each launch, each block's leaf, batch entry, first element and number of elements.
std::vector<std::vector<Block>> blocks(const std::vector<std::int64_t>& lengths,
                                       const std::int64_t batch, const std::int64_t chunk_length,
                                       const std::size_t capacity) {
  cuda::LaunchPlan plan(batch, chunk_length, capacity);
  for (std::size_t i = 0; i < lengths.size(); ++i) plan.add_leaf(i, lengths[i]);
  std::vector<std::vector<Block>> launches;
  for (const cuda::PlannedLaunch& planned : plan.launches()) {
    std::vector<std::int32_t> first_blocks;
    for (const cuda::PlannedLeaf& leaf : planned.leaves) first_blocks.push_back(leaf.first_block);
    std::vector<Block>& launch = launches.emplace_back();
    for (std::int32_t block = 0; block < planned.blocks; ++block) {
      const std::int32_t place =
          cuda::leaf_of(block, first_blocks.data(), static_cast<std::int32_t>(first_blocks.size()));
      const std::size_t leaf = planned.leaves[place].index;
      const cuda::Stretch stretch =
          cuda::stretch_of(block - first_blocks[place], lengths[leaf], chunk_length);
      launch.emplace_back(leaf, stretch.entry, stretch.begin, stretch.length);
    }
  }
  return launches;
}

// For each launch, the number of blocks of each of its leaves.
std::vector<std::vector<std::int64_t>> blocks_of_launches(const std::vector<std::int64_t>& lengths,
                                                          const std::int64_t batch,
                                                          const std::int64_t chunk_length,
                                                          const std::size_t capacity) {
  cuda::LaunchPlan plan(batch, chunk_length, capacity);
  for (std::size_t i = 0; i < lengths.size(); ++i) plan.add_leaf(i, lengths[i]);
  std::vector<std::vector<std::int64_t>> launches;
  for (const cuda::PlannedLaunch& planned : plan.launches()) {
    std::vector<std::int64_t>& launch = launches.emplace_back();
    std::int64_t end = planned.blocks;
    for (auto leaf = planned.leaves.rbegin(); leaf != planned.leaves.rend(); ++leaf) {
      launch.insert(launch.begin(), end - leaf->first_block);
      end = leaf->first_block;
    }
  }
  return launches;
}

template <typename T>
using Array = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <Returns kReturns, typename T>
std::size_t run_launches(const UpdateCall<T>& call) {
  constexpr std::size_t kCapacity = cuda::kUpdateCapacity<T, cuda::kSmallParameters>;
  const cuda::LaunchPlan plan = cuda::plan_of(call, kCapacity);
  for (const cuda::PlannedLaunch& planned : plan.launches()) {
    const auto launch = cuda::launch_of<kCapacity>(call, planned);
    for (std::int32_t block = 0; block < planned.blocks; ++block) {
      for (std::int32_t thread = 0; thread < cuda::kUpdateThreads; ++thread) {
        cuda::run_update_thread<kReturns>(launch, block, thread);
      }
    }
  }
  return plan.launches().size();
}

// The update as a GPU runs it. Each leaf has seven arrays: params, grads, mu, nu and the outputs,
// which may be inputs. Returns the number of launches.
template <typename T>
std::size_t update(const Array<T>& coefficients, const std::int64_t batch, const std::int64_t rows,
                   const bool returns_change, const std::vector<std::vector<Array<T>>>& leaves) {
  UpdateCall<T> call{coefficients.data(),
                     RowLayout::kV2,
                     batch,
                     rows,
                     0,
                     returns_change ? Returns::kChange : Returns::kParams,
                     {}};
  for (const std::vector<Array<T>>& a : leaves) {
    const auto length = static_cast<std::int64_t>(a.at(0).size()) / batch;
    call.leaves.push_back({a.at(0).data(), a.at(1).data(), a.at(2).data(), a.at(3).data(),
                           a.at(4).data(), a.at(5).data(), a.at(6).data(), length});
  }
  return returns_change ? run_launches<Returns::kChange>(call)
                        : run_launches<Returns::kParams>(call);
}

// The sums of squares as a GPU forms them, but for the order in which a block adds its threads'.
template <typename T>
std::vector<T> sum_squares(const std::vector<Array<T>>& leaves, const std::int64_t batch,
                           const std::int64_t parts) {
  constexpr std::size_t kCapacity = cuda::kSumSquaresCapacity<T, cuda::kSmallParameters>;
  std::vector<T> sums(leaves.size() * batch);
  SumSquaresCall<T> call{batch, {}, sums.data()};
  for (const Array<T>& leaf : leaves) {
    call.leaves.push_back({leaf.data(), static_cast<std::int64_t>(leaf.size()) / batch});
  }
  std::vector<double> workspace(parts);
  double* at = workspace.data();
  const std::int64_t chunk_length = cuda::sum_squares_chunk(call, parts);
  const cuda::LaunchPlan plan = cuda::plan_of(call, chunk_length, kCapacity);
  for (const cuda::PlannedLaunch& planned : plan.launches()) {
    const auto launch = cuda::launch_of<kCapacity>(call, planned, chunk_length, at);
    for (std::int32_t block = 0; block < planned.blocks; ++block, ++at) {
      if (at == workspace.data() + parts) throw std::out_of_range("more blocks than parts");
      for (std::int32_t thread = 0; thread < cuda::kSumThreads; ++thread) {
        *at += cuda::sum_of_thread(launch, block, thread);
      }
    }
    for (std::int64_t sum = 0; sum < launch.leaves * batch; ++sum) {
      const cuda::PartsOfSum of_sum = cuda::parts_of_sum(launch, sum);
      double total = 0;
      for (std::int64_t i = 0; i < of_sum.count; ++i) total += of_sum.begin[i];
      sums.at(of_sum.index) = static_cast<T>(total);
    }
  }
  return sums;
}

template <typename T>
void define_of_type(nb::module_& m) {
  m.def("update_as_on_gpu", &update<T>, nb::arg("coefficients"), nb::arg("batch"), nb::arg("rows"),
        nb::arg("returns_change"), nb::arg("leaves"));
  m.def("sum_squares_as_on_gpu", &sum_squares<T>, nb::arg("leaves"), nb::arg("batch"),
        nb::arg("parts"));
}

}  // namespace

void define_cuda_on_host(nb::module_& m) {
  m.def("blocks", &blocks, nb::arg("lengths"), nb::arg("batch"), nb::arg("chunk_length"),
        nb::arg("capacity"));
  m.def("blocks_of_launches", &blocks_of_launches, nb::arg("lengths"), nb::arg("batch"),
        nb::arg("chunk_length"), nb::arg("capacity"));
  define_of_type<float>(m);
  define_of_type<double>(m);
}

}  // namespace nadam_xla
