#include "kernels/bindings/testing_cuda_rows_on_host.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>

#include "kernels/bindings/testing_cuda_threads.h"
#include "kernels/bindings/testing_stored_arrays.h"

namespace nb = nanobind;

namespace nadam_xla {
namespace {

// The update of rows, in place, as a GPU runs it. Returns the number of launches.
template <typename T, typename Number>
std::int64_t update_rows(const Array<T>& coefficients, const std::int64_t batch,
                         const std::int64_t rows, const std::int64_t first_row,
                         const std::vector<StoredArray>& inputs, const std::int64_t streams,
                         const bool stochastic, const Array<Number>& numbers,
                         const Array<std::int32_t>& order, const std::int64_t columns,
                         const std::int64_t most_blocks) {
  RowsCall<T> call;
  call.of.streams = StreamSet(streams);
  std::vector<StoredArray> outputs = inputs;
  outputs.erase(outputs.begin() + 1);  // the gradients
  Leaf leaf = leaf_of({inputs, outputs}, call.of.streams, batch);
  const auto bytes = static_cast<std::int64_t>(inputs.at(0).first.size());
  leaf.length = bytes / size_of(leaf.storage(Stream::kParams)) / batch;
  const auto size = static_cast<std::int64_t>(coefficients.size());
  call.of.coefficients = coefficients.data();
  call.of.format = {RowLayout::kV2, static_cast<int>(size / (batch * rows))};
  call.of.batch = batch;
  call.of.rows = rows;
  call.of.first_row = first_row;
  call.of.returns = Returns::kParams;
  call.of.leaves = {leaf};
  call.of.rounding = stochastic ? Rounding::kStochastic : Rounding::kNearest;
  call.columns = columns;
  call.numbers.given = numbers.data();
  call.numbers.are_wide = sizeof(Number) == sizeof(std::int64_t);
  call.numbers.count = static_cast<std::int64_t>(numbers.size()) / batch;
  call.numbers.order = order.data();
  return cuda_on_host::update_rows(call, most_blocks);
}

template <typename T, typename Number>
void define_of_types(nb::module_& m) {
  m.def("update_rows_as_on_gpu", &update_rows<T, Number>, nb::arg("coefficients"), nb::arg("batch"),
        nb::arg("rows"), nb::arg("first_row"), nb::arg("inputs"), nb::arg("streams"),
        nb::arg("stochastic"), nb::arg("numbers").noconvert(), nb::arg("order").noconvert(),
        nb::arg("columns"), nb::arg("most_blocks") = cuda::kMostBlocks);
}

}  // namespace

void define_cuda_rows_on_host(nb::module_& m) {
  define_of_types<float, std::int32_t>(m);
  define_of_types<float, std::int64_t>(m);
  define_of_types<double, std::int32_t>(m);
  define_of_types<double, std::int64_t>(m);
}

}  // namespace nadam_xla
