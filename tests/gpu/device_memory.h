// Memory of a GPU that is guarded, streams and graphs; and how arrays are stored and drawn.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda/check.h"
#include "kernels/update_call.h"

namespace nadam_xla::on_device {

using cuda::check;

constexpr RowFormat kFormat{RowLayout::kV2, kRowLength};

inline std::mt19937 generator(0);

template <typename T>
T uniform(const double low, const double high) {
  return static_cast<T>(std::uniform_real_distribution<double>(low, high)(generator));
}

inline void require(const bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

using Bytes = std::vector<unsigned char>;

// Device memory of some bytes, `shift` beyond a boundary of 16, with guards before and after, which
// must stay as they are.
class Guarded {
 public:
  Guarded(const std::int64_t bytes, const std::int64_t shift)
      : bytes_(bytes), begin_(kGuard + shift), host_(kGuard + shift + bytes + kGuard, kUnwritten) {
    check(cudaMalloc(&device_, host_.size()), "cudaMalloc");
    check(cudaMemcpy(device_, host_.data(), host_.size(), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { cudaFree(device_); }

  template <typename T = void>
  T* data() const {
    return reinterpret_cast<T*>(device_ + begin_);
  }

  void write(const void* const values) {
    check(cudaMemcpy(data(), values, bytes_, cudaMemcpyHostToDevice), "cudaMemcpy");
  }

  Bytes read() {
    check(cudaMemcpy(host_.data(), device_, host_.size(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    const auto first = host_.begin() + begin_;
    for (auto x = host_.begin(); x != first; ++x)
      require(*x == kUnwritten, "written before a leaf");
    for (auto x = first + bytes_; x != host_.end(); ++x) {
      require(*x == kUnwritten, "written after a leaf");
    }
    return {first, first + bytes_};
  }

 private:
  static constexpr std::int64_t kGuard = 64;
  static constexpr unsigned char kUnwritten = 0xb3;

  std::int64_t bytes_;
  std::int64_t begin_;
  Bytes host_;
  unsigned char* device_ = nullptr;
};

// It comes after what the host copies: it is no stream that does not block.
class CudaStream {
 public:
  CudaStream() { check(cudaStreamCreate(&stream_), "a new stream"); }
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
  ~CudaStream() { cudaStreamDestroy(stream_); }
  cudaStream_t get() const { return stream_; }
  void wait() const { check(cudaStreamSynchronize(stream_), "the work on the stream"); }

 private:
  cudaStream_t stream_ = nullptr;
};

// Work that was captured from a stream.
class Graph {
 public:
  Graph(const CudaStream& stream, const std::function<void(cudaStream_t)>& work) {
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
  void replay(const CudaStream& stream) const {
    check(cudaGraphLaunch(executable_, stream.get()), "the replay of the graph");
  }

 private:
  cudaGraphExec_t executable_ = nullptr;
  std::size_t nodes_ = 0;
};

// How the streams of a leaf are stored.
struct Kind {
  const char* name;
  Storage params, grads, mu, nu;
  std::optional<Storage> average = {}, master = {};
  Rounding rounding = Rounding::kNearest;

  StreamSet streams() const {
    const auto bit = [](const Stream stream, const bool is_there) {
      return std::int64_t{is_there} << bit_of(stream);
    };
    return StreamSet(0b1111 | bit(Stream::kAverage, average.has_value()) |
                     bit(Stream::kMaster, master.has_value()) |
                     bit(Stream::kMuScales, is_codes(mu)) | bit(Stream::kNuScales, is_codes(nu)));
  }

  Storage of(const Stream stream) const {
    switch (stream) {
      case Stream::kGrads:
        return grads;
      case Stream::kMu:
        return mu;
      case Stream::kNu:
        return nu;
      case Stream::kAverage:
        return average.value();
      case Stream::kMaster:
        return master.value();
      case Stream::kMuScales:
      case Stream::kNuScales:
        return Storage::kF32;
      default:
        return params;
    }
  }
};

// An element of a stream, in so many bytes.
template <typename T>
void append(Bytes& bytes, const T element) {
  const auto* const first = reinterpret_cast<const unsigned char*>(&element);
  bytes.insert(bytes.end(), first, first + sizeof(T));
}

inline void append_drawn(Bytes& bytes, const Storage storage, const double low, const double high) {
  const auto x = uniform<double>(low, high);
  switch (storage) {
    case Storage::kF32:
      return append(bytes, static_cast<float>(x));
    case Storage::kF64:
      return append(bytes, x);
    case Storage::kBF16:
      return append(bytes, to_bfloat16(static_cast<float>(x)));
    case Storage::kF16:
      return append(bytes, to_float16(static_cast<float>(x)));
    case Storage::kRemainder16:
      return append(bytes, static_cast<std::uint16_t>(generator()));
    case Storage::kRemainder8:
      return append(bytes, static_cast<std::uint8_t>(generator()));
    case Storage::kBlock8Signed:
      return append(bytes, static_cast<std::int8_t>(uniform<double>(-127, 127)));
    case Storage::kBlock8Unsigned:
      return append(bytes, static_cast<std::uint8_t>(uniform<double>(0, 248)));
  }
}

// Rows of coefficients, each with the key of random numbers.
template <typename T>
std::vector<T> drawn_table(const std::int64_t rows, const bool skip) {
  std::vector<T> table;
  for (std::int64_t row = 0; row < rows; ++row) {
    const double ranges[][2] = {{0.1, 10},    {0.1, 10},   {1, 1e3},     {0.5, 0.99},  {0.01, 0.5},
                                {0.9, 0.999}, {1e-3, 0.1}, {1e-4, 1e-2}, {1e-8, 1e-3}, {0, 1e-3},
                                {0, 0.1},     {0, 0.1},    {0.1, 10},    {0.5, 3}};
    for (const auto& range : ranges) table.push_back(uniform<T>(range[0], range[1]));
    table.push_back(skip ? T(1) : T(0));
    while (table.size() % kFormat.length != kFormat.length - 2) {
      table.push_back(std::floor(uniform<T>(0, 65536)));  // the key of the random numbers
    }
    for (int i = 0; i < 2; ++i) table.push_back(uniform<T>(0, 1));  // the average's weights
  }
  return table;
}

}  // namespace nadam_xla::on_device
