#include "kernels/cpu/rows.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/chunk_plan.h"
#include "kernels/cpu/instruction_set.h"
#include "kernels/cpu/stretch_of.h"
#include "kernels/storage.h"

namespace nadam_xla::cpu {
namespace {

// Hands `each` the elements of a stretch, decoded, with their numbers.
template <typename T, typename Each>
void decode(const Storage stored, const void* const from, const std::int64_t length,
            const Each& each) {
  const auto run = [&](const auto* const numbers, const auto& decoded) {
    for (std::int64_t i = 0; i < length; ++i) each(i, static_cast<T>(decoded(numbers[i])));
  };
  const auto itself = [](const auto x) { return x; };
  switch (stored) {
    case Storage::kF32:
      return run(static_cast<const float*>(from), itself);
    case Storage::kF64:
      return run(static_cast<const double*>(from), itself);
    case Storage::kBF16:
      return run(static_cast<const std::uint16_t*>(from),
                 [](const std::uint16_t x) { return of_bfloat16(x); });
    default:
      return run(static_cast<const std::uint16_t*>(from),
                 [](const std::uint16_t x) { return of_float16(x); });
  }
}

// Some elements of a row: all of them, or as many as fit into a block.
struct Part {
  std::int64_t first_place;  // in the sorted order, of the row
  std::int64_t places;       // how often it occurs
  std::int64_t column, columns;
};

// What a thread updates at a time: parts of rows, copied out of the table side by side, so that the
// loops, which run over what is side by side, take rows of any length. It stays in the cache.
template <typename T>
class Block {
 public:
  static constexpr std::int64_t kElements = 1024;

  Block(const UpdateStretch<T>& table, const std::int64_t columns, const SortedRows& rows,
        const UpdateLoop<T> loop)
      : table_(table),
        columns_(columns),
        rows_(rows),
        loop_(loop),
        pads_(draws(table.rounding, table.streams)) {
    if (pads_) std::memset(memory_, 0, sizeof(memory_));  // The loops compute what is between rows.
  }

  // Updates what is in it first, where the part would not fit.
  void add(const Part& part) {
    const std::int64_t taken = pads_ ? (part.columns + kStep - 1) / kStep * kStep : part.columns;
    if (length_ + taken > kElements || parts_ == kMostParts) update();
    at_[parts_] = part;
    begins_[parts_++] = length_;
    load(part, length_);
    length_ += taken;
  }

  void update() {
    if (parts_ == 0) return;
    UpdateStretch<T> stretch = table_;
    stretch.leaf = leaf_of_block();
    stretch.elements_of_steps = pads_ ? elements_of_steps_ : nullptr;
    loop_(stretch);
    for (int i = 0; i < parts_; ++i) store(at_[i], begins_[i]);
    parts_ = 0;
    length_ = 0;
  }

 private:
  static constexpr int kMostParts = 256;

  std::int64_t element_of(const Part& part) const {
    return rows_.places[part.first_place].row() * columns_ + part.column;
  }

  void* memory_of(const int stream, const Storage stored, const std::int64_t first) {
    return advanced(static_cast<void*>(memory_[stream]), first * size_of(stored));
  }

  void load(const Part& part, const std::int64_t first) {
    const Leaf& table = table_.leaf;
    const std::int64_t element = element_of(part);
    for (int i = 0; i < kStreams; ++i) {
      const auto stream = static_cast<Stream>(i);
      if (stream == Stream::kGrads || !table_.streams.has(stream)) continue;
      const std::int64_t size = size_of(table.stored[i]);
      std::memcpy(memory_of(i, table.stored[i], first), advanced(table.in[i], element * size),
                  part.columns * size);
    }
    load_gradient(part, first);
    for (std::int64_t i = 0; pads_ && i < part.columns; i += kStep) {
      elements_of_steps_[(first + i) / kStep] = element + i;
    }
  }

  const void* gradient_of(const Part& part, const std::int64_t occurrence) const {
    const std::int64_t place = rows_.places[part.first_place + occurrence].place();
    const std::int64_t size = size_of(table_.leaf.storage(Stream::kGrads));
    return advanced(table_.leaf.in[static_cast<int>(Stream::kGrads)],
                    (place * columns_ + part.column) * size);
  }

  // The sum of all that there are, in the type that the rule computes in.
  void load_gradient(const Part& part, const std::int64_t first) {
    const Storage stored = table_.leaf.storage(Stream::kGrads);
    constexpr auto kGrads = static_cast<int>(Stream::kGrads);
    auto* const sum = static_cast<T*>(memory_of(kGrads, kStorageOf<T>, first));
    decode<T>(stored, gradient_of(part, 0), part.columns,
              [sum](const std::int64_t i, const T x) { sum[i] = x; });
    for (std::int64_t k = 1; k < part.places; ++k) {
      decode<T>(stored, gradient_of(part, k), part.columns,
                [sum](const std::int64_t i, const T x) { sum[i] += x; });
    }
  }

  void store(const Part& part, const std::int64_t first) {
    const Leaf& table = table_.leaf;
    for (int i = 0; i < kResults; ++i) {
      if (!table_.streams.has_result(i)) continue;
      const auto stream = static_cast<int>(stream_of_result(i));
      const std::int64_t size = size_of(table.stored[stream]);
      std::memcpy(advanced(table.out[i], element_of(part) * size),
                  memory_of(stream, table.stored[stream], first), part.columns * size);
    }
  }

  Leaf leaf_of_block() {
    Leaf leaf = table_.leaf;
    for (int i = 0; i < kStreams; ++i) leaf.in[i] = memory_[i];
    for (int i = 0; i < kResults; ++i) {
      leaf.out[i] = memory_[static_cast<int>(stream_of_result(i))];
    }
    leaf.stored[static_cast<int>(Stream::kGrads)] = kStorageOf<T>;
    leaf.length = length_;
    return leaf;
  }

  const UpdateStretch<T>& table_;
  const std::int64_t columns_;
  const SortedRows& rows_;
  const UpdateLoop<T> loop_;
  const bool pads_;  // so that no step of the loops has elements of two rows

  int parts_ = 0;
  std::int64_t length_ = 0;
  Part at_[kMostParts];
  std::int64_t begins_[kMostParts];
  std::int64_t elements_of_steps_[kElements / kStep];
  // Behind each stream a gap: at the same place of a page, a load waits for the store of another.
  static constexpr std::int64_t kGap = 48;
  alignas(64) double memory_[kStreams][kElements + kGap];
};

// Asks for the memory of a row that will be loaded soon.
template <typename T>
void prefetch_row(const UpdateStretch<T>& table, const std::int64_t columns, const RowPlace place) {
  constexpr std::int64_t kCacheLine = 64, kLongest = 2048;
  for (int i = 0; i < kStreams; ++i) {
    const auto stream = static_cast<Stream>(i);
    if (!table.streams.has(stream)) continue;
    const std::int64_t number = stream == Stream::kGrads ? place.place() : place.row();
    const std::int64_t bytes = columns * size_of(table.leaf.stored[i]);
    const auto* const row = static_cast<const char*>(table.leaf.in[i]) + number * bytes;
    const std::int64_t end = std::min(bytes, kLongest);
    for (std::int64_t at = 0; at < end; at += kCacheLine) __builtin_prefetch(row + at);
  }
}

// The rows of one batch entry, in chunks of their sorted places.
template <typename T>
class RowsWork {
 public:
  RowsWork(const UpdateStretch<T>& table, const std::int64_t columns, const SortedRows& rows,
           const std::int64_t threads)
      : table_(table),
        columns_(columns),
        rows_(rows),
        places_of_chunk_(
            std::max<std::int64_t>(1, chunk_length(rows.count * columns, threads) / columns)),
        loop_(update_loop<T>()) {}

  std::int64_t chunks() const { return (rows_.count + places_of_chunk_ - 1) / places_of_chunk_; }

  // Updates the rows that begin in the chunk.
  void run(const std::int64_t chunk) const {
    const std::int64_t end = std::min(rows_.count, (chunk + 1) * places_of_chunk_);
    // Rows that are loaded together are asked for together.
    const std::int64_t ahead = std::max<std::int64_t>(1, Block<T>::kElements / columns_);
    Block<T> block(table_, columns_, rows_, loop_);
    for (std::int64_t i = chunk * places_of_chunk_; i < end; ++i) {
      if (i + ahead < rows_.count) prefetch_row(table_, columns_, rows_.places[i + ahead]);
      if (rows_.is_first_of_row(i)) add_row(block, i);
    }
    block.update();
  }

 private:
  void add_row(Block<T>& block, const std::int64_t first) const {
    std::int64_t after = first + 1;
    while (after < rows_.count && !rows_.is_first_of_row(after)) ++after;
    for (std::int64_t column = 0; column < columns_; column += Block<T>::kElements) {
      block.add({first, after - first, column, std::min(columns_ - column, Block<T>::kElements)});
    }
  }

  const UpdateStretch<T>& table_;
  const std::int64_t columns_;
  const SortedRows& rows_;
  const std::int64_t places_of_chunk_;
  const UpdateLoop<T> loop_;
};

// A batch entry of the table.
template <typename T>
UpdateStretch<T> entry_of(const RowsCall<T>& call, const std::int64_t entry) {
  const std::int64_t of_grads = entry * call.numbers.count * call.columns;
  UpdateStretch<T> table = stretch_of(call.of, 0, entry, 0, call.table().length);
  constexpr auto kGrads = static_cast<int>(Stream::kGrads);
  const Leaf& whole = call.table();
  table.leaf.in[kGrads] = advanced(whole.in[kGrads], of_grads * size_of(whole.stored[kGrads]));
  return table;
}

}  // namespace

template <typename T>
void update_rows(const RowsCall<T>& call, const Pool& pool) {
  const std::int64_t height = call.height();
  for (std::int64_t entry = 0; height != 0 && entry < call.of.batch; ++entry) {
    const UpdateStretch<T> table = entry_of(call, entry);
    if (table.row.skip) continue;
    const SortedRows rows = sorted_rows(call.numbers, entry, height);
    const RowsWork<T> work(table, call.columns, rows, pool.threads());
    run_chunks(work.chunks(), [&work](const std::int64_t chunk) { work.run(chunk); }, pool);
  }
}

template void update_rows(const RowsCall<float>&, const Pool&);
template void update_rows(const RowsCall<double>&, const Pool&);

}  // namespace nadam_xla::cpu
