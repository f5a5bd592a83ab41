// The launches on a GPU without XLA: memory at any offset, guarded on both sides, and CUDA graphs.
//
// Everything is compared with the rule as the host computes it, bit for bit. Small and without a
// framework, so that compute-sanitizer sees every access in seconds. Prints what it checked; exits
// with 1 at the first difference.
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda/check.h"
#include "kernels/cuda/sum_squares.h"
#include "kernels/cuda/update.h"
#include "kernels/update_rule.h"

namespace {

using nadam_xla::Returns;
using nadam_xla::Row;
using nadam_xla::RowFormat;
using nadam_xla::RowLayout;
using nadam_xla::Streams;
using nadam_xla::StreamSet;
using nadam_xla::SumSquaresCall;
using nadam_xla::UpdateCall;
using nadam_xla::Updated;
using nadam_xla::cuda::check;

constexpr RowFormat kFormat{RowLayout::kV2, nadam_xla::kRowLength};

constexpr int kInputs = 4;   // params, grads, mu, nu
constexpr int kOutputs = 3;  // updated, mu, nu
constexpr std::int64_t kGuard = 8;
constexpr std::int64_t kSpareParts = 64;

std::mt19937 generator(0);

template <typename T>
T uniform(const double low, const double high) {
  return static_cast<T>(std::uniform_real_distribution<double>(low, high)(generator));
}

void require(const bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

// Device memory of `count` elements, `shift` elements beyond a boundary of 16 bytes, with guards
// before and after, which must stay as they are.
template <typename T>
class Guarded {
 public:
  Guarded(const std::int64_t count, const std::int64_t shift)
      : count_(count), begin_(kGuard + shift), host_(kGuard + shift + count + kGuard) {
    for (T& x : host_) x = T(-77);
    check(cudaMalloc(&device_, host_.size() * sizeof(T)), "cudaMalloc");
    check(cudaMemcpy(device_, host_.data(), host_.size() * sizeof(T), cudaMemcpyHostToDevice),
          "cudaMemcpy");
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { cudaFree(device_); }

  T* data() const { return device_ + begin_; }

  void write(const std::vector<T>& values) {
    check(cudaMemcpy(data(), values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice),
          "cudaMemcpy");
  }

  std::vector<T> read() {
    check(cudaMemcpy(host_.data(), device_, host_.size() * sizeof(T), cudaMemcpyDeviceToHost),
          "cudaMemcpy");
    const auto first = host_.begin() + begin_;
    for (auto x = host_.begin(); x != first; ++x) require(*x == T(-77), "written before a leaf");
    for (auto x = first + count_; x != host_.end(); ++x) {
      require(*x == T(-77), "written after a leaf");
    }
    return {first, first + count_};
  }

 private:
  std::int64_t count_;
  std::int64_t begin_;
  std::vector<T> host_;
  T* device_ = nullptr;
};

// It comes after what the host copies: it is no stream that does not block.
class Stream {
 public:
  Stream() { check(cudaStreamCreate(&stream_), "a new stream"); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }
  cudaStream_t get() const { return stream_; }
  void wait() const { check(cudaStreamSynchronize(stream_), "the work on the stream"); }

 private:
  cudaStream_t stream_ = nullptr;
};

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

// Work that was captured from a stream.
class Graph {
 public:
  Graph(const Stream& stream, const std::function<void(cudaStream_t)>& work) {
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), "the capture");
    work(stream.get());
    check(cudaStreamEndCapture(stream.get(), &graph), "the end of the capture");
    check(cudaGraphGetNodes(graph, nullptr, &nodes_), "counting the nodes");
    check(cudaGraphInstantiate(&executable_, graph, 0), "making the graph executable");
    check(cudaGraphDestroy(graph), "destroying the graph");
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() { cudaGraphExecDestroy(executable_); }
  std::size_t nodes() const { return nodes_; }
  void replay(const Stream& stream) const {
    check(cudaGraphLaunch(executable_, stream.get()), "the replay of the graph");
  }

 private:
  cudaGraphExec_t executable_ = nullptr;
  std::size_t nodes_ = 0;
};

struct Options {
  std::int64_t batch = 1;
  bool a_row_each = false;
  bool in_place = true;
  bool alike = true;  // all streams of a leaf equally far from a boundary
  Returns returns = Returns::kParams;
  bool skip = false;
};

// A call of the update with its memory, and what it must give.
template <typename T>
class Update {
 public:
  Update(const std::vector<std::int64_t>& lengths, const std::int64_t shift, const Options& options)
      : options_(options),
        lengths_(lengths),
        rows_(options.a_row_each ? static_cast<std::int64_t>(lengths.size()) : 1),
        table_(options.batch * rows_ * kFormat.length, 0) {
    call_.coefficients = table_.data();
    call_.format = kFormat;
    call_.batch = options.batch;
    call_.rows = rows_;
    call_.first_row = 0;
    call_.returns = options.returns;
    for (const std::int64_t length : lengths) {
      std::vector<T*> at;
      for (int i = 0; i < kInputs + kOutputs; ++i) {
        const std::int64_t by = options.alike ? shift : (shift + i) % 4;
        buffers_.push_back(std::make_unique<Guarded<T>>(options.batch * length, by));
        at.push_back(buffers_.back()->data());
      }
      if (options.in_place) {
        at[4] = at[options.returns == Returns::kParams ? 0 : 1];
        at[5] = at[2];
        at[6] = at[3];
      }
      call_.leaves.push_back({{at[0], at[1], at[2], at[3]}, {at[4], at[5], at[6]}, length});
    }
  }

  const UpdateCall<T>& call() const { return call_; }

  // New inputs and coefficients in the same memory.
  void draw() {
    std::vector<T> table;
    for (std::int64_t row = 0; row < options_.batch * rows_; ++row) {
      const double ranges[][2] = {{0.1, 10},    {0.1, 10},    {1, 1e3},    {0.5, 0.99},
                                  {0.01, 0.5},  {0.9, 0.999}, {1e-3, 0.1}, {1e-4, 1e-2},
                                  {1e-8, 1e-3}, {0, 1e-3},    {0, 0.1},    {0, 0.1},
                                  {0.1, 10},    {0.5, 3}};
      for (const auto& range : ranges) table.push_back(uniform<T>(range[0], range[1]));
      table.push_back(options_.skip ? T(1) : T(0));
    }
    table_.write(table);
    expected_.clear();
    for (std::size_t leaf = 0; leaf < lengths_.size(); ++leaf) draw_leaf(leaf, table);
  }

  void compare() {
    for (std::size_t leaf = 0; leaf < lengths_.size(); ++leaf) {
      const bool changes = options_.returns == Returns::kChange;
      const int outputs[] = {options_.in_place ? (changes ? 1 : 0) : 4, options_.in_place ? 2 : 5,
                             options_.in_place ? 3 : 6};
      for (int i = 0; i < kInputs + kOutputs; ++i) buffer(leaf, i).read();  // the guards
      for (int i = 0; i < kOutputs; ++i) {
        const std::vector<T> found = buffer(leaf, outputs[i]).read();
        require(found.empty() || std::memcmp(found.data(), expected_[leaf][i].data(),
                                             found.size() * sizeof(T)) == 0,
                "result " + std::to_string(i) + " of a leaf of " + std::to_string(lengths_[leaf]) +
                    " elements differs from the rule");
      }
    }
  }

 private:
  Guarded<T>& buffer(const std::size_t leaf, const int which) {
    return *buffers_[leaf * (kInputs + kOutputs) + which];
  }

  void draw_leaf(const std::size_t leaf, const std::vector<T>& table) {
    const std::int64_t length = lengths_[leaf];
    std::vector<T> inputs[kInputs];
    for (int i = 0; i < kInputs; ++i) {
      for (std::int64_t k = 0; k < options_.batch * length; ++k) {
        inputs[i].push_back(uniform<T>(i == 3 ? 0 : -3, 3));
      }
      buffer(leaf, i).write(inputs[i]);
    }
    std::vector<std::vector<T>> outputs(kOutputs);
    for (std::int64_t k = 0; k < options_.batch * length; ++k) {
      const std::int64_t row = k / length * rows_ + (rows_ == 1 ? 0 : leaf);
      const Row<T> coefficients =
          nadam_xla::read_row(&table[row * kFormat.length], kFormat, StreamSet::with_params());
      const T p = inputs[0][k], g = inputs[1][k], m = inputs[2][k], v = inputs[3][k];
      Updated<T> to{p, T(0), {m, v}};
      if (!options_.skip) to = nadam_xla::update_rule(coefficients, {p, g, m, v});
      outputs[0].push_back(options_.returns == Returns::kParams ? to.params : to.change);
      outputs[1].push_back(to.states[0]);
      outputs[2].push_back(to.states[1]);
    }
    expected_.push_back(std::move(outputs));
  }

  Options options_;
  std::vector<std::int64_t> lengths_;
  std::int64_t rows_;
  Guarded<T> table_;
  std::vector<std::unique_ptr<Guarded<T>>> buffers_;
  std::vector<std::vector<std::vector<T>>> expected_;
  UpdateCall<T> call_;
};

// A call of the sums of squares with its memory, and what it must give.
template <typename T>
class Sums {
 public:
  Sums(const std::vector<std::int64_t>& lengths, const std::int64_t shift, const std::int64_t batch)
      : lengths_(lengths),
        sums_(batch * static_cast<std::int64_t>(lengths.size()), 0),
        parts_(batch * static_cast<std::int64_t>(lengths.size()) + kSpareParts) {
    call_.batch = batch;
    call_.results = sums_.data();
    for (const std::int64_t length : lengths) {
      leaves_.push_back(std::make_unique<Guarded<T>>(batch * length, shift));
      call_.leaves.push_back({leaves_.back()->data(), length});
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
      leaves_[leaf]->write(values);
    }
  }

  std::vector<T> compare() {
    const std::vector<T> found = sums_.read();
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
  Guarded<T> sums_;
  Parts parts_;
  std::vector<std::unique_ptr<Guarded<T>>> leaves_;
  std::vector<double> expected_;
  SumSquaresCall<T> call_;
};

const std::vector<std::int64_t> kLengths = {1, 0, 2, 3, 4, 5, 63, 1027, 2048, 4096, 4097, 9001};

std::vector<std::int64_t> many_lengths() {
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i < 600; ++i) lengths.push_back(i % 11);
  return lengths;
}

template <typename T>
int check_updates(const Stream& stream) {
  int checked = 0;
  const auto run = [&](const std::vector<std::int64_t>& lengths, const std::int64_t shift,
                       const Options& options) {
    Update<T> update(lengths, shift, options);
    update.draw();
    nadam_xla::cuda::update(update.call(), stream.get());
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
        options.a_row_each = shift % 2 == 1;
        options.returns = shift < 2 ? Returns::kParams : Returns::kChange;
        run(kLengths, shift, options);
        options.skip = true;
        run(kLengths, shift, options);
        options.skip = false;
        options.batch = 3;
        run({1, 3, 4097}, shift, options);
      }
    }
  }
  run(many_lengths(), 1, {});
  return checked;
}

template <typename T>
int check_sums(const Stream& stream) {
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

// A step with the sums of squares, captured once and replayed over new values in the same memory.
template <typename T>
std::size_t check_graph(const Stream& stream) {
  Update<T> update(many_lengths(), 0, {});
  Sums<T> sums(kLengths, 0, 1);
  const Graph graph(stream, [&](const cudaStream_t captured) {
    sums.enqueue(captured);
    nadam_xla::cuda::update(update.call(), captured);
  });
  for (int replay = 0; replay < 3; ++replay) {
    update.draw();
    sums.draw();
    graph.replay(stream);
    stream.wait();
    update.compare();
    sums.compare();
  }
  return graph.nodes();
}

// The graph comes first: kernels that were never launched must be captured as well.
template <typename T>
void check_all(const char* const type) {
  const Stream stream;
  std::printf("%s: a CUDA graph of %zu launches, replayed 3 times over new values, is right\n",
              type, check_graph<T>(stream));
  std::printf("%s: %d updates are right\n", type, check_updates<T>(stream));
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
