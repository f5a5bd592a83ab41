#include "kernels/bindings/testing_cuda_on_host.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/bindings/testing_cuda_threads.h"
#include "kernels/bindings/testing_stored_arrays.h"
#include "kernels/cuda/launch_plan.h"
#include "kernels/cuda/sum_squares_launch.h"
#include "kernels/cuda/update_blockwise.h"
#include "kernels/cuda/update_launch.h"
#include "kernels/cuda/update_thread.h"

namespace nb = nanobind;

namespace nadam_xla {
namespace {

using Piece = std::tuple<std::size_t, std::int64_t, std::int64_t, std::int64_t>;

cuda::LaunchPlan plan_of_update(const std::vector<std::int64_t>& lengths, const std::int64_t batch,
                                const std::int64_t tile_length, const std::size_t capacity) {
  cuda::LaunchPlan plan(capacity);
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    plan.add_leaf(i, cuda::update_tiles(batch, lengths[i], tile_length));
  }
  return plan;
}

// Adds a tile's leaf, and of each of its batch entries the number, first element and length.
void add_pieces(std::vector<Piece>& tile, const std::size_t leaf, const std::int64_t length,
                const std::int64_t batch, const std::int32_t in_leaf,
                const std::int64_t tile_length) {
  if (!cuda::is_short(length)) {
    const cuda::Stretch stretch = cuda::stretch_of(in_leaf, length, tile_length);
    tile.emplace_back(leaf, stretch.entry, stretch.begin, stretch.length);
    return;
  }
  std::int64_t at = std::int64_t{cuda::kShortUpdateTile} * in_leaf;
  const std::int64_t end = std::min(at + cuda::kShortUpdateTile, batch * length);
  while (at < end) {
    const std::int64_t begin = at % length;
    const std::int64_t count = std::min(length - begin, end - at);
    tile.emplace_back(leaf, at / length, begin, count);
    at += count;
  }
}

// For each launch the tiles of an update, each as its pieces.
std::vector<std::vector<std::vector<Piece>>> tiles(const std::vector<std::int64_t>& lengths,
                                                   const std::int64_t batch,
                                                   const std::int64_t tile_length,
                                                   const std::size_t capacity) {
  std::vector<std::vector<std::vector<Piece>>> launches;
  const cuda::LaunchPlan plan = plan_of_update(lengths, batch, tile_length, capacity);
  for (const cuda::PlannedLaunch& planned : plan.launches()) {
    std::vector<std::int32_t> first_tiles;
    for (const cuda::PlannedLeaf& leaf : planned.leaves) first_tiles.push_back(leaf.first_tile);
    auto& launch = launches.emplace_back(planned.tiles);
    for (std::int32_t tile = 0; tile < planned.tiles; ++tile) {
      const std::int32_t place =
          cuda::leaf_of(tile, first_tiles.data(), static_cast<std::int32_t>(first_tiles.size()));
      const std::size_t leaf = planned.leaves[place].index;
      add_pieces(launch[tile], leaf, lengths[leaf], batch, tile - first_tiles[place], tile_length);
    }
  }
  return launches;
}

// For each launch of an update, the number of tiles of each of its leaves.
std::vector<std::vector<std::int64_t>> tiles_of_launches(const std::vector<std::int64_t>& lengths,
                                                         const std::int64_t batch,
                                                         const std::int64_t tile_length,
                                                         const std::size_t capacity) {
  std::vector<std::vector<std::int64_t>> launches;
  const cuda::LaunchPlan plan = plan_of_update(lengths, batch, tile_length, capacity);
  for (const cuda::PlannedLaunch& planned : plan.launches()) {
    std::vector<std::int64_t>& launch = launches.emplace_back();
    std::int64_t end = planned.tiles;
    for (auto leaf = planned.leaves.rbegin(); leaf != planned.leaves.rend(); ++leaf) {
      launch.insert(launch.begin(), end - leaf->first_tile);
      end = leaf->first_tile;
    }
  }
  return launches;
}

// Of a leaf with rows of so many elements.
Scales scales_of(const ArraysOfLeaf& arrays, const StreamSet streams, const std::int64_t columns) {
  const auto& [in, out] = arrays;
  Scales scales{{}, {}, columns};
  for (int i = 0; i < kMoments; ++i) {
    const Stream stream = nadam_xla::scales_of(i);
    if (!streams.has(stream)) continue;
    const auto& before = in.at(streams.place(stream)).first;
    const auto& after = out.at(streams.place_of_result(result_of(stream))).first;
    scales.in[i] = reinterpret_cast<const float*>(before.data());
    scales.out[i] = reinterpret_cast<float*>(after.data());
  }
  return scales;
}

// The update as a GPU runs it. With an index all but the gradients are stacks; `columns` are those
// of each leaf where a moment has scales. Returns the number of launches.
template <typename T>
std::size_t update(const Array<T>& coefficients, const std::int64_t batch, const std::int64_t rows,
                   const bool returns_change, const std::vector<ArraysOfLeaf>& leaves,
                   const std::int64_t streams, const bool stochastic,
                   const std::optional<std::int32_t> index,
                   const std::vector<std::int64_t>& columns) {
  const auto size = static_cast<std::int64_t>(coefficients.size());
  UpdateCall<T> call{coefficients.data(),
                     {RowLayout::kV2, static_cast<int>(size / (batch * rows))},
                     batch,
                     rows,
                     0,
                     returns_change ? Returns::kChange : Returns::kParams,
                     {},
                     StreamSet(streams),
                     stochastic ? Rounding::kStochastic : Rounding::kNearest};
  for (const ArraysOfLeaf& arrays : leaves) {
    const Leaf leaf = leaf_of(arrays, call.streams, batch);
    if (index && leaf.length != 0) {
      const std::int64_t bytes = leaf.length * size_of(leaf.storage(Stream::kParams));
      call.entry = {&*index, static_cast<std::int64_t>(arrays.first.at(0).first.size()) / bytes};
    }
    if (call.streams.has_scales()) {
      call.scales.push_back(scales_of(arrays, call.streams, columns.at(call.leaves.size())));
    }
    call.leaves.push_back(leaf);
  }
  return cuda_on_host::update(call);
}

// The sums of squares, of T, or their roots, as a GPU forms them, but for the order in which a warp
// adds its lanes'.
template <typename T>
std::vector<T> sum_squares(const std::vector<StoredArray>& leaves, const std::int64_t batch,
                           const std::int64_t parts, const bool norms) {
  std::vector<T> results(leaves.size() * batch);
  SumSquaresCall<T> call{batch, {}, results.data(), norms ? OfSquares::kNorm : OfSquares::kSum};
  for (const auto& [bytes, dtype] : leaves) {
    const Storage stored = storage_of(dtype);
    const std::int64_t length = static_cast<std::int64_t>(bytes.size()) / size_of(stored) / batch;
    call.leaves.push_back({bytes.data(), stored, length});
  }
  std::vector<double> workspace(parts);
  cuda_on_host::sum_squares(call, workspace.data(), parts);
  return results;
}

template <typename T>
void define_of_type(nb::module_& m, const char* const sum_squares_name) {
  m.def("update_as_on_gpu", &update<T>, nb::arg("coefficients"), nb::arg("batch"), nb::arg("rows"),
        nb::arg("returns_change"), nb::arg("leaves"), nb::arg("streams") = std::int64_t{0b1111},
        nb::arg("stochastic") = false, nb::arg("index") = nb::none(),
        nb::arg("columns") = std::vector<std::int64_t>());
  m.def(sum_squares_name, &sum_squares<T>, nb::arg("leaves"), nb::arg("batch"), nb::arg("parts"),
        nb::arg("norms") = false);
}

}  // namespace

void define_cuda_on_host(nb::module_& m) {
  m.def("tiles", &tiles, nb::arg("lengths"), nb::arg("batch"), nb::arg("tile_length"),
        nb::arg("capacity"));
  m.def("tiles_of_launches", &tiles_of_launches, nb::arg("lengths"), nb::arg("batch"),
        nb::arg("tile_length"), nb::arg("capacity"));
  define_of_type<float>(m, "sum_squares_as_on_gpu_f32");
  define_of_type<double>(m, "sum_squares_as_on_gpu_f64");
}

}  // namespace nadam_xla
