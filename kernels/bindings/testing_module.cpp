// The Python module nadam_xla._native_testing, built for tests and benchmarks alone: the layers
// below the FFI, and the machine's limit.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "kernels/bindings/testing_cuda_codec.h"
#include "kernels/bindings/testing_cuda_on_host.h"
#include "kernels/cpu/chunk_plan.h"
#include "kernels/cpu/memory_limit.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/update.h"

namespace nb = nanobind;

namespace nadam_xla {
namespace {

using Stretch = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t>;

std::vector<std::vector<Stretch>> stretches(const std::vector<std::int64_t>& lengths,
                                            std::int64_t batch, std::int64_t chunk_length) {
  cpu::ChunkPlan plan(static_cast<std::int64_t>(lengths.size()), batch, chunk_length);
  for (const std::int64_t length : lengths) plan.add_leaf(length);
  std::vector<std::vector<Stretch>> chunks(plan.count());
  for (std::int64_t chunk = 0; chunk < plan.count(); ++chunk) {
    plan.for_each_stretch(
        chunk, [&](std::int64_t leaf, std::int64_t entry, std::int64_t begin, std::int64_t length) {
          chunks[chunk].emplace_back(leaf, entry, begin, length);
        });
  }
  return chunks;
}

// A pool that starts its tasks at once, on threads of their own, or only when told to.
class TestPool final : public cpu::Pool {
 public:
  enum class Start { kAtOnce, kOnThreads, kLate };

  TestPool(std::int64_t threads, Start start) : threads_(threads), start_(start) {}
  ~TestPool() override {
    for (std::thread& thread : running_) thread.join();
  }

  std::int64_t threads() const override { return threads_; }
  void schedule(std::function<void()> task) const override {
    switch (start_) {
      case Start::kAtOnce:
        task();
        break;
      case Start::kOnThreads: {
        const std::lock_guard<std::mutex> lock(mutex_);
        running_.emplace_back(std::move(task));
        break;
      }
      case Start::kLate:
        waiting_.push_back(std::move(task));
        break;
    }
  }
  std::int64_t start_waiting() const {
    for (const auto& task : waiting_) task();
    return static_cast<std::int64_t>(waiting_.size());
  }

 private:
  std::int64_t threads_;
  Start start_;
  mutable std::mutex mutex_;
  mutable std::vector<std::thread> running_;
  mutable std::vector<std::function<void()>> waiting_;
};

TestPool::Start parse_start(const std::string& start) {
  if (start == "at once") return TestPool::Start::kAtOnce;
  if (start == "on threads") return TestPool::Start::kOnThreads;
  if (start == "late") return TestPool::Start::kLate;
  throw std::invalid_argument("start is '" + start + "'");
}

// How often each chunk was run, and how many helpers started after the call was over.
std::tuple<std::vector<int>, std::int64_t> run_chunks(std::int64_t chunks, std::int64_t threads,
                                                      const std::string& start) {
  std::vector<std::atomic<int>> runs(chunks);
  const TestPool pool(threads, parse_start(start));
  {
    // Gone by the time a late helper starts, as the caller of the real thing would be.
    const std::function<void(std::int64_t)> body = [&runs](std::int64_t i) { ++runs[i]; };
    cpu::run_chunks(chunks, body, pool);
  }
  const std::int64_t late = pool.start_waiting();
  return {std::vector<int>(runs.begin(), runs.end()), late};
}

using Array = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Runs the chosen chunks of an in-place update of one leaf, cut for two threads; returns how many
// chunks there are.
std::int64_t run_update_chunks(const Array& coefficients, const Array& params, const Array& grads,
                               const Array& mu, const Array& nu,
                               const std::vector<std::int64_t>& chunks) {
  constexpr std::int64_t kThreads = 2;
  constexpr Storage kF32 = Storage::kF32;
  const nadam_xla::Leaf leaf{
      {params.data(), grads.data(), mu.data(), nu.data(), grads.data(), grads.data()},
      {params.data(), mu.data(), nu.data(), params.data(), params.data()},
      {kF32, kF32, kF32, kF32, kF32, kF32},
      kF32,
      static_cast<std::int64_t>(params.size())};
  const cpu::UpdateWork<float> work(
      {coefficients.data(), {RowLayout::kV2, kRowLength}, 1, 1, 0, Returns::kParams, {leaf}},
      kThreads);
  for (const std::int64_t chunk : chunks) work.run(chunk);
  return work.chunks();
}

using Indices = nb::ndarray<std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// Updates some rows of a table in place, with so many threads, which start as said.
void update_rows(const Array& coefficients, const Indices& indices, const Matrix& grads,
                 const Matrix& params, const Matrix& mu, const Matrix& nu,
                 const std::int64_t threads, const std::string& start) {
  constexpr Storage kF32 = Storage::kF32;
  const auto touched = static_cast<std::int64_t>(indices.size());
  std::vector<std::int64_t> workspace(2 * touched);
  const nadam_xla::Leaf table{
      {params.data(), grads.data(), mu.data(), nu.data(), grads.data(), grads.data()},
      {params.data(), mu.data(), nu.data(), params.data(), params.data()},
      {kF32, kF32, kF32, kF32, kF32, kF32},
      kF32,
      static_cast<std::int64_t>(params.size())};
  const TestPool pool(threads, parse_start(start));
  cpu::update_rows<float>(
      {{coefficients.data(), {RowLayout::kV2, kRowLength}, 1, 1, 0, Returns::kParams, {table}},
       static_cast<std::int64_t>(params.shape(1)),
       {indices.data(), false, touched, nullptr, workspace.data()}},
      pool);
  pool.start_waiting();
}

}  // namespace
}  // namespace nadam_xla

NB_MODULE(_native_testing, m) {
  m.def("stretches", &nadam_xla::stretches, nb::arg("lengths"), nb::arg("batch"),
        nb::arg("chunk_length"));
  m.def("chunk_length", &nadam_xla::cpu::chunk_length, nb::arg("elements"), nb::arg("threads"));
  m.def("run_chunks", &nadam_xla::run_chunks, nb::arg("chunks"), nb::arg("threads"),
        nb::arg("start"), nb::call_guard<nb::gil_scoped_release>());
  m.def("run_update_chunks", &nadam_xla::run_update_chunks, nb::arg("coefficients"),
        nb::arg("params"), nb::arg("grads"), nb::arg("mu"), nb::arg("nu"), nb::arg("chunks"));
  m.def("update_rows", &nadam_xla::update_rows, nb::arg("coefficients"), nb::arg("indices"),
        nb::arg("grads"), nb::arg("params"), nb::arg("mu"), nb::arg("nu"), nb::arg("threads"),
        nb::arg("start"), nb::call_guard<nb::gil_scoped_release>());
  nadam_xla::define_cuda_codec(m);
  nadam_xla::define_cuda_on_host(m);
  nb::class_<nadam_xla::cpu::MemoryLimit>(m, "MemoryLimit")
      .def(nb::init<std::int64_t, std::int64_t, std::array<int, 5>>(), nb::arg("elements"),
           nb::arg("threads"), nb::arg("sizes") = std::array<int, 5>{4, 4, 4, 4, 0})
      .def("run", &nadam_xla::cpu::MemoryLimit::run, nb::arg("passes"),
           nb::call_guard<nb::gil_scoped_release>());
  nb::class_<nadam_xla::cpu::RowsLimit>(m, "RowsLimit")
      .def(nb::init<std::int64_t, std::int64_t, std::vector<std::int32_t>, std::int64_t>(),
           nb::arg("height"), nb::arg("columns"), nb::arg("rows"), nb::arg("threads"))
      .def("run", &nadam_xla::cpu::RowsLimit::run, nb::arg("passes"),
           nb::call_guard<nb::gil_scoped_release>());
}
