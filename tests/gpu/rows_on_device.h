// The update of some rows of a table, on a GPU and on the CPU.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/cpu/rows.h"
#include "kernels/cuda/rows.h"
#include "tests/gpu/device_memory.h"

namespace nadam_xla::on_device {

struct RowsShape {
  std::int64_t batch, height, columns, touched;
  bool are_wide = false;  // the numbers of the rows
};

// A pool that has no threads but the caller's.
class CallersThread : public cpu::Pool {
 public:
  std::int64_t threads() const override { return 1; }
  void schedule(std::function<void()> /*task*/) const override {}
};

// A call with its memory, and what it must give: what the CPU's loops do.
template <typename T>
class Rows {
 public:
  Rows(const RowsShape& shape, const std::int64_t shift, const Kind& kind, const bool skip = false)
      : shape_(shape),
        kind_(kind),
        skip_(skip),
        coefficients_(memory(shape.batch * kFormat.length * sizeof(T), 0)),
        numbers_(memory(places() * (shape.are_wide ? 8 : 4), 0)),
        order_(memory(places() * 4, 0)),
        workspace_(2 * shape.touched) {
    for (int i = 0; i < kStreams; ++i) {
      const auto stream = static_cast<Stream>(i);
      if (!kind.streams().has(stream)) continue;
      const std::int64_t size = size_of(kind.of(stream));
      memories_[i] = memory(count(stream) * size, size * shift % 16);
    }
  }

  void enqueue(const cudaStream_t stream) const {
    cuda::update_rows(call_of([](const Memory& memory) { return memory.device->data(); }), stream);
  }

  // New inputs, numbers and coefficients in the same memory, and what becomes of them.
  void draw() {
    const std::vector<T> table = drawn_table<T>(shape_.batch, skip_);
    write(coefficients_, as_bytes(table));
    draw_numbers();
    for (int i = 0; i < kStreams; ++i) {
      if (memories_[i].device == nullptr) continue;
      const auto stream = static_cast<Stream>(i);
      Bytes drawn;
      for (std::int64_t k = 0; k < count(stream); ++k) {
        append_drawn(drawn, kind_.of(stream), stream == Stream::kNu ? 0 : -3, 3);
      }
      write(memories_[i], drawn);
    }
    cpu::update_rows(call_of([](const Memory& memory) -> void* { return memory.host->data(); }),
                     CallersThread());
  }

  void compare() const {
    for (int i = 0; i < kStreams; ++i) {
      const auto& [device, host] = memories_[i];
      require(device == nullptr || device->read() == *host,
              std::string(kind_.name) + ": " + name_of(static_cast<Stream>(i)) + " of " +
                  std::to_string(shape_.touched) + " rows of " + std::to_string(shape_.columns) +
                  " elements differ from the CPU's");
    }
  }

 private:
  // The same on the device and on the host.
  struct Memory {
    std::shared_ptr<Guarded> device;
    std::shared_ptr<Bytes> host;
  };

  static Memory memory(const std::int64_t bytes, const std::int64_t shift) {
    return {std::make_shared<Guarded>(bytes, shift), std::make_shared<Bytes>(bytes)};
  }
  static void write(const Memory& memory, const Bytes& bytes) {
    *memory.host = bytes;
    memory.device->write(bytes.data());
  }
  template <typename Element>
  static Bytes as_bytes(const std::vector<Element>& elements) {
    Bytes bytes(elements.size() * sizeof(Element));
    std::memcpy(bytes.data(), elements.data(), bytes.size());
    return bytes;
  }

  std::int64_t places() const { return shape_.batch * shape_.touched; }
  std::int64_t count(const Stream stream) const {
    return shape_.batch * shape_.columns *
           (stream == Stream::kGrads ? shape_.touched : shape_.height);
  }

  // Some are those of no row, and the second half is one of a few.
  void draw_numbers() {
    std::vector<std::int64_t> numbers;
    std::vector<std::int32_t> order;
    for (std::int64_t entry = 0; entry < shape_.batch; ++entry) {
      for (std::int64_t i = 0; i < shape_.touched; ++i) {
        const auto any = static_cast<std::int64_t>(generator() % (shape_.height + 4)) - 2;
        numbers.push_back(2 * i < shape_.touched ? any : any % 3);
      }
      std::vector<std::int32_t> places(shape_.touched);
      std::iota(places.begin(), places.end(), 0);
      std::stable_sort(places.begin(), places.end(), [&](const auto a, const auto b) {
        return numbers[entry * shape_.touched + a] < numbers[entry * shape_.touched + b];
      });
      order.insert(order.end(), places.begin(), places.end());
    }
    write(order_, as_bytes(order));
    write(numbers_, shape_.are_wide
                        ? as_bytes(numbers)
                        : as_bytes(std::vector<std::int32_t>(numbers.begin(), numbers.end())));
  }

  template <typename Address>
  RowsCall<T> call_of(const Address& address) const {
    Leaf table{};
    for (int i = 0; i < kStreams; ++i) {
      const auto stream = static_cast<Stream>(i);
      const Stream present = kind_.streams().has(stream) ? stream : Stream::kGrads;
      table.in[i] = address(memories_[static_cast<int>(present)]);
      table.stored[i] = kind_.of(present);
    }
    for (int i = 0; i < kResults; ++i) {
      const Stream stream = stream_of_result(kind_.streams().has_result(i) ? i : 0);
      table.out[i] = address(memories_[static_cast<int>(stream)]);
    }
    table.stored_first = kind_.params;
    table.length = shape_.height * shape_.columns;
    RowsCall<T> call;
    call.of.coefficients = static_cast<const T*>(address(coefficients_));
    call.of.format = kFormat;
    call.of.batch = shape_.batch;
    call.of.rows = 1;
    call.of.first_row = 0;
    call.of.returns = Returns::kParams;
    call.of.leaves = {table};
    call.of.streams = kind_.streams();
    call.of.rounding = kind_.rounding;
    call.columns = shape_.columns;
    call.numbers = {address(numbers_), shape_.are_wide, shape_.touched,
                    static_cast<const std::int32_t*>(address(order_)), workspace_.data()};
    return call;
  }

  RowsShape shape_;
  Kind kind_;
  bool skip_;
  Memory coefficients_, numbers_, order_;
  mutable std::vector<std::uint64_t> workspace_;
  Memory memories_[kStreams];
};

inline const std::vector<RowsShape> kRowsShapes = {
    {1, 50, 1, 300},        {1, 40, 5, 100},    {2, 300, 8, 200, true},
    {3, 20, 300, 33, true}, {1, 100, 1024, 64}, {1, 5, 64, 5000},
};

// Returns how many were checked. No kind has an average.
template <typename T>
int check_rows(const CudaStream& stream, const std::vector<Kind>& kinds) {
  int checked = 0;
  for (const Kind& kind : kinds) {
    for (const RowsShape& shape : kRowsShapes) {
      for (const std::int64_t shift : {0, 1}) {
        for (const bool skip : {false, true}) {
          Rows<T> rows(shape, shift, kind, skip);
          rows.draw();
          rows.enqueue(stream.get());
          stream.wait();
          rows.compare();
          ++checked;
        }
      }
    }
  }
  return checked;
}

}  // namespace nadam_xla::on_device
