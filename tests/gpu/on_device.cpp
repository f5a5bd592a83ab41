// The launches on a GPU without XLA: memory at any offset, guarded on both sides, and CUDA graphs.
//
// Updates are compared with what the CPU's loops make of the same call, bit for bit. Small and
// without a framework, so that compute-sanitizer sees every access in seconds. Prints what it
// checked; exits with 1 at the first difference.
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/blockwise.h"
#include "kernels/cpu/update.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/sum_squares.h"
#include "kernels/cuda/update.h"
#include "tests/gpu/device_memory.h"
#include "tests/gpu/rows_on_device.h"

namespace {

using nadam_xla::Leaf;
using nadam_xla::Returns;
using nadam_xla::Rounding;
using nadam_xla::Scales;
using nadam_xla::Storage;
using nadam_xla::Stream;
using nadam_xla::StreamSet;
using nadam_xla::SumSquaresCall;
using nadam_xla::UpdateCall;
using nadam_xla::cuda::check;
using nadam_xla::on_device::append_drawn;
using nadam_xla::on_device::Bytes;
using nadam_xla::on_device::CudaStream;
using nadam_xla::on_device::drawn_table;
using nadam_xla::on_device::Graph;
using nadam_xla::on_device::Guarded;
using nadam_xla::on_device::kFormat;
using nadam_xla::on_device::Kind;
using nadam_xla::on_device::require;
using nadam_xla::on_device::Rows;
using nadam_xla::on_device::uniform;

constexpr std::int64_t kSpareParts = 64;

// A workspace that nobody has written to.
class Parts {
 public:
  explicit Parts(const std::int64_t count) : count_(count) {
    check(cudaMalloc(&device_, count * sizeof(double)), "cudaMalloc");
  }
  Parts(const Parts&) = delete;
  Parts& operator=(const Parts&) = delete;
  ~Parts() { cudaFree(device_); }
  nadam_xla::cuda::Workspace get() const { return {device_, count_}; }

 private:
  std::int64_t count_;
  double* device_ = nullptr;
};

struct Options {
  std::int64_t batch = 1;
  bool in_place = true;
  bool alike = true;  // all streams of a leaf equally far from a boundary
  Returns returns = Returns::kParams;
  bool skip = false;
};

// Of one batch entry. What is not in codes has one row.
struct Shape {
  std::int64_t rows, columns;

  std::int64_t elements() const { return rows * columns; }
  std::int64_t blocks() const { return nadam_xla::blockwise::blocks_of(elements(), columns); }
};

// A call of the update with its memory, and what it must give: what the CPU's loops do.
template <typename T>
class Update {
 public:
  Update(const std::vector<Shape>& shapes, const std::int64_t shift, const Kind& kind,
         const Options& options)
      : kind_(kind),
        options_(options),
        shapes_(shapes),
        streams_(kind.streams()),
        rows_(options.batch * static_cast<std::int64_t>(shapes.size())),
        table_(rows_ * kFormat.length * sizeof(T), 0) {
    for (const Shape& shape : shapes) {
      leaves_.emplace_back();
      for (int i = 0; i < nadam_xla::kAllStreams; ++i) {
        const auto stream = static_cast<Stream>(i);
        leaves_.back().in[i] = memory_of(stream, shape, options.alike ? shift : shift + i);
      }
      for (int i = 0; i < nadam_xla::kAllResults; ++i) {
        leaves_.back().out[i] = memory_of_result(leaves_.back(), i, shape, shift);
      }
    }
  }

  void enqueue(const cudaStream_t stream) const {
    nadam_xla::cuda::update(call_of(table_.data<T>(),
                                    [](const Memory& memory) {
                                      return memory.device == nullptr ? nullptr
                                                                      : memory.device->data();
                                    }),
                            stream);
  }

  // New inputs and coefficients in the same memory, and what becomes of them.
  void draw() {
    const std::vector<T> table = drawn_table<T>(rows_, options_.skip);
    table_.write(table.data());
    for (std::size_t leaf = 0; leaf < leaves_.size(); ++leaf) draw_leaf(leaf);
    run_on_cpu(table.data());
  }

  void compare() {
    for (std::size_t leaf = 0; leaf < leaves_.size(); ++leaf) {
      for (const auto& [device, host] : leaves_[leaf].in) {
        if (device != nullptr) device->read();  // the guards
      }
      for (int i = 0; i < nadam_xla::kAllResults; ++i) {
        const auto& [device, host] = leaves_[leaf].out[i];
        require(device == nullptr || device->read() == *host,
                std::string(kind_.name) + ": result " + std::to_string(i) + " of a leaf of " +
                    std::to_string(shapes_[leaf].rows) + " x " +
                    std::to_string(shapes_[leaf].columns) + " elements differs from the CPU's");
      }
    }
  }

 private:
  // The same on the device and on the host; null where a leaf has no such stream.
  struct Memory {
    std::shared_ptr<Guarded> device;
    std::shared_ptr<Bytes> host;
  };
  struct Memories {
    Memory in[nadam_xla::kAllStreams], out[nadam_xla::kAllResults];
  };

  std::int64_t count(const Stream stream, const Shape& shape) const {
    const bool is_scales = stream == Stream::kMuScales || stream == Stream::kNuScales;
    return options_.batch * (is_scales ? shape.blocks() : shape.elements());
  }

  Memory memory_of(const Stream stream, const Shape& shape, const std::int64_t shift) const {
    if (!streams_.has(stream)) return {};
    const std::int64_t size = nadam_xla::size_of(kind_.of(stream));
    const std::int64_t bytes = size * count(stream, shape);
    return {std::make_shared<Guarded>(bytes, size * shift % 16), std::make_shared<Bytes>(bytes)};
  }

  // On the host never that of an operand.
  Memory memory_of_result(const Memories& leaf, const int result, const Shape& shape,
                          const std::int64_t shift) const {
    const bool changes = result == 0 && options_.returns == Returns::kChange;
    const Stream stream = changes ? Stream::kGrads : nadam_xla::stream_of_result(result);
    if (!streams_.has(stream)) return {};
    Memory memory = memory_of(stream, shape, options_.alike ? shift : shift + 3 * result);
    if (options_.in_place) memory.device = leaf.in[static_cast<int>(stream)].device;
    return memory;
  }

  template <typename Address>
  UpdateCall<T> call_of(const T* const table, const Address& address) const {
    UpdateCall<T> call;
    call.coefficients = table;
    call.format = kFormat;
    call.batch = options_.batch;
    call.rows = static_cast<std::int64_t>(shapes_.size());
    call.first_row = 0;
    call.returns = options_.returns;
    call.streams = streams_;
    call.rounding = kind_.rounding;
    for (std::size_t leaf = 0; leaf < leaves_.size(); ++leaf) {
      call.leaves.push_back(leaf_of(leaf, address));
      if (streams_.has_scales()) call.scales.push_back(scales_of(leaf, address));
    }
    return call;
  }

  template <typename Address>
  Leaf leaf_of(const std::size_t number, const Address& address) const {
    const Memories& memories = leaves_[number];
    Leaf leaf{};
    for (int i = 0; i < nadam_xla::kStreams; ++i) {
      const auto stream = static_cast<Stream>(i);
      const Stream present = streams_.has(stream) ? stream : Stream::kGrads;
      leaf.in[i] = address(memories.in[static_cast<int>(present)]);
      leaf.stored[i] = kind_.of(present);
    }
    for (int i = 0; i < nadam_xla::kResults; ++i) {
      leaf.out[i] = address(memories.out[streams_.has_result(i) ? i : 0]);
    }
    leaf.stored_first = options_.returns == Returns::kChange ? kind_.grads : kind_.params;
    leaf.length = shapes_[number].elements();
    return leaf;
  }

  template <typename Address>
  Scales scales_of(const std::size_t number, const Address& address) const {
    const Memories& memories = leaves_[number];
    Scales scales{{}, {}, shapes_[number].columns};
    for (int i = 0; i < nadam_xla::kMoments; ++i) {
      const Stream stream = nadam_xla::scales_of(i);
      if (!streams_.has(stream)) continue;
      scales.in[i] = static_cast<const float*>(address(memories.in[static_cast<int>(stream)]));
      scales.out[i] = static_cast<float*>(address(memories.out[nadam_xla::result_of(stream)]));
    }
    return scales;
  }

  void draw_leaf(const std::size_t leaf) {
    for (int i = 0; i < nadam_xla::kAllStreams; ++i) {
      const auto& [device, host] = leaves_[leaf].in[i];
      if (device == nullptr) continue;
      const auto stream = static_cast<Stream>(i);
      const bool is_negative =
          stream != Stream::kNu && stream != Stream::kMuScales && stream != Stream::kNuScales;
      host->clear();
      for (std::int64_t k = 0; k < count(stream, shapes_[leaf]); ++k) {
        append_drawn(*host, kind_.of(stream), is_negative ? -3 : 0, 3);
      }
      device->write(host->data());
    }
  }

  void run_on_cpu(const T* const table) const {
    const UpdateCall<T> call = call_of(table, [](const Memory& memory) -> void* {
      return memory.host == nullptr ? nullptr : memory.host->data();
    });
    const auto run = [](const auto& work) {
      for (std::int64_t chunk = 0; chunk < work.chunks(); ++chunk) work.run(chunk);
    };
    if constexpr (std::is_same_v<T, float>) {
      if (streams_.has_scales()) return run(nadam_xla::cpu::BlockwiseWork(call, 1));
    }
    run(nadam_xla::cpu::UpdateWork<T>(call, 1));
  }

  Kind kind_;
  Options options_;
  std::vector<Shape> shapes_;
  StreamSet streams_;
  std::int64_t rows_;  // of the table, one for each leaf and batch entry
  Guarded table_;
  std::vector<Memories> leaves_;
};

// A call of the sums of squares with its memory, and what it must give.
template <typename T>
class Sums {
 public:
  Sums(const std::vector<std::int64_t>& lengths, const std::int64_t shift, const std::int64_t batch)
      : lengths_(lengths),
        sums_(batch * static_cast<std::int64_t>(lengths.size() * sizeof(T)), 0),
        parts_(batch * static_cast<std::int64_t>(lengths.size()) + kSpareParts) {
    call_.batch = batch;
    call_.results = sums_.template data<T>();
    for (const std::int64_t length : lengths) {
      const auto size = static_cast<std::int64_t>(sizeof(T));
      leaves_.push_back(std::make_unique<Guarded>(batch * length * size, shift * size));
      call_.leaves.push_back({leaves_.back()->data(), nadam_xla::kStorageOf<T>, length});
    }
  }

  void enqueue(const cudaStream_t stream) {
    nadam_xla::cuda::sum_squares(call_, parts_.get(), stream);
  }

  void draw() {
    expected_.assign(call_.batch * lengths_.size(), 0);
    for (std::size_t leaf = 0; leaf < lengths_.size(); ++leaf) {
      std::vector<T> values;
      for (std::int64_t k = 0; k < call_.batch * lengths_[leaf]; ++k) {
        const T x = uniform<T>(-3, 3);
        values.push_back(x);
        expected_[k / lengths_[leaf] * lengths_.size() + leaf] += static_cast<double>(x) * x;
      }
      leaves_[leaf]->write(values.data());
    }
  }

  std::vector<T> compare() {
    const Bytes bytes = sums_.read();
    std::vector<T> found(expected_.size());
    std::memcpy(found.data(), bytes.data(), bytes.size());
    const double tolerance = sizeof(T) == sizeof(float) ? 3e-7 : 1e-14;
    for (std::size_t i = 0; i < found.size(); ++i) {
      require(std::abs(found[i] - expected_[i]) <= tolerance * expected_[i],
              "sum " + std::to_string(i) + " of squares is " + std::to_string(found[i]) +
                  " and must be " + std::to_string(expected_[i]));
    }
    return found;
  }

 private:
  std::vector<std::int64_t> lengths_;
  Guarded sums_;
  Parts parts_;
  std::vector<std::unique_ptr<Guarded>> leaves_;
  std::vector<double> expected_;
  SumSquaresCall<T> call_;
};

const std::vector<std::int64_t> kLengths = {1, 0, 2, 3, 4, 5, 63, 1027, 2048, 4096, 4097, 9001};

std::vector<std::int64_t> many_lengths() {
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i < 600; ++i) lengths.push_back(i % 11);
  return lengths;
}

std::vector<Shape> in_one_row(const std::vector<std::int64_t>& lengths) {
  std::vector<Shape> shapes;
  for (const std::int64_t length : lengths) shapes.push_back({1, length});
  return shapes;
}

// Whole blocks, parts of one, and rows that begin and end anywhere.
const std::vector<Shape> kRows = {{1, 1},   {3, 256}, {7, 100},  {5, 300},  {2, 513},
                                  {40, 64}, {0, 64},  {3, 1285}, {33, 260}, {4, 1024}};

std::vector<Shape> many_rows() {
  std::vector<Shape> shapes;
  for (std::int64_t i = 0; i < 100; ++i) shapes.push_back({1 + i % 3, 1 + i % 11 * 40});
  return shapes;
}

template <typename T>
constexpr Storage kComputed = nadam_xla::kStorageOf<T>;

template <typename T>
constexpr Kind kAsComputed = {"as computed", kComputed<T>, kComputed<T>, kComputed<T>,
                              kComputed<T>};

template <typename T>
std::vector<Kind> kinds() {
  constexpr Storage kBF16 = Storage::kBF16, kF16 = Storage::kF16;
  return {
      kAsComputed<T>,
      {"narrow", kBF16, kF16, kBF16, Storage::kF64, {}, {}, Rounding::kStochastic},
      {"remainder", kBF16, kBF16, kF16, kBF16, kComputed<T>, Storage::kRemainder16},
      {"correction", kBF16, kBF16, kBF16, kBF16, {}, Storage::kRemainder8, Rounding::kStochastic}};
}

// Of a table of which some rows are updated.
template <typename T>
std::vector<Kind> kinds_of_rows() {
  std::vector<Kind> without_averages = kinds<T>();
  for (Kind& kind : without_averages) kind.average.reset();
  return without_averages;
}

// Of float32 alone.
const std::vector<Kind> kKindsInCodes = {
    {"codes", Storage::kF32, Storage::kF32, Storage::kBlock8Signed, Storage::kBlock8Unsigned},
    {"codes of narrow",
     Storage::kBF16,
     Storage::kBF16,
     Storage::kBlock8Signed,
     Storage::kBlock8Unsigned,
     Storage::kF32,
     {},
     Rounding::kStochastic},
    {"first moments in codes",
     Storage::kBF16,
     Storage::kBF16,
     Storage::kBlock8Signed,
     Storage::kBF16,
     {},
     Storage::kRemainder16},
};

template <typename T>
int check_kind(const CudaStream& stream, const Kind& kind, const std::vector<Shape>& shapes,
               const std::vector<Shape>& few, const std::vector<Shape>& many) {
  int checked = 0;
  const auto run = [&](const std::vector<Shape>& of, const std::int64_t shift,
                       const Options& options) {
    Update<T> update(of, shift, kind, options);
    update.draw();
    update.enqueue(stream.get());
    stream.wait();
    update.compare();
    ++checked;
  };
  for (std::int64_t shift = 0; shift < 4; ++shift) {
    for (const bool alike : {true, false}) {
      for (const bool in_place : {true, false}) {
        Options options;
        options.alike = alike;
        options.in_place = in_place;
        options.returns = shift < 2 ? Returns::kParams : Returns::kChange;
        run(shapes, shift, options);
        options.skip = true;
        run(shapes, shift, options);
        options.skip = false;
        options.batch = 3;
        run(few, shift, options);
      }
    }
  }
  run(many, 1, {});
  return checked;
}

template <typename T>
int check_updates(const CudaStream& stream) {
  int checked = 0;
  for (const Kind& kind : kinds<T>()) {
    checked += check_kind<T>(stream, kind, in_one_row(kLengths), in_one_row({1, 3, 4097}),
                             in_one_row(many_lengths()));
  }
  if constexpr (std::is_same_v<T, float>) {
    for (const Kind& kind : kKindsInCodes) {
      checked += check_kind<T>(stream, kind, kRows, {{2, 256}, {3, 300}}, many_rows());
    }
  }
  return checked;
}

template <typename T>
int check_sums(const CudaStream& stream) {
  int checked = 0;
  for (std::int64_t shift = 0; shift < 4; ++shift) {
    for (const std::int64_t batch : {1, 3}) {
      Sums<T> sums(shift == 0 && batch == 1 ? many_lengths() : kLengths, shift, batch);
      sums.draw();
      std::vector<T> first;
      for (int time = 0; time < 2; ++time) {
        sums.enqueue(stream.get());
        stream.wait();
        const std::vector<T> found = sums.compare();
        if (time == 0) first = found;
        require(std::memcmp(found.data(), first.data(), found.size() * sizeof(T)) == 0,
                "the sums of squares differ from run to run");
      }
      ++checked;
    }
  }
  return checked;
}

// A step with the sums of squares and one of some rows, captured once and replayed over new values
// in the same memory.
template <typename T>
std::size_t check_graph(const CudaStream& stream) {
  Update<T> update(in_one_row(many_lengths()), 0, kAsComputed<T>, {});
  Sums<T> sums(kLengths, 0, 1);
  Rows<T> rows({1, 100, 64, 300}, 0, kAsComputed<T>);
  const Graph graph(stream, [&](const cudaStream_t captured) {
    sums.enqueue(captured);
    update.enqueue(captured);
    rows.enqueue(captured);
  });
  for (int replay = 0; replay < 3; ++replay) {
    update.draw();
    sums.draw();
    rows.draw();
    graph.replay(stream);
    stream.wait();
    update.compare();
    sums.compare();
    rows.compare();
  }
  return graph.nodes();
}

// The graph comes first: kernels that were never launched must be captured as well.
template <typename T>
void check_all(const char* const type) {
  const CudaStream stream;
  std::printf("%s: a CUDA graph of %zu launches, replayed 3 times over new values, is right\n",
              type, check_graph<T>(stream));
  std::printf("%s: %d updates are right\n", type, check_updates<T>(stream));
  std::printf("%s: %d updates of rows are right\n", type,
              nadam_xla::on_device::check_rows<T>(stream, kinds_of_rows<T>()));
  std::printf("%s: %d sums of squares are right\n", type, check_sums<T>(stream));
}

}  // namespace

int main() {
  try {
    check_all<float>("float32");
    check_all<double>("float64");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "on_device: %s\n", error.what());
    return 1;
  }
  return 0;
}
