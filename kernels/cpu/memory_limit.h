// What the machine's memory allows: the streams of an update, with next to no arithmetic.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace nadam_xla::cpu {

// Parameters, gradients, two moments and master weights, of which every pass reads all and writes
// all but the gradients, on `threads` threads.
class MemoryLimit {
 public:
  // sizes: the bytes of an element of each; 0: there is none.
  MemoryLimit(std::int64_t elements, std::int64_t threads, const std::array<int, 5>& sizes);
  void run(std::int64_t passes);

 private:
  std::int64_t blocks_, threads_;
  std::array<std::int64_t, 5> words_;  // of a block of each stream
  std::array<std::vector<std::uint32_t>, 5> streams_;
};

// The same of rows of tables, wherever they are: parameters and two moments, of which every pass
// reads and writes the rows of these numbers, and the gradients of those rows.
class RowsLimit {
 public:
  // columns: float32 numbers of a row, a multiple of 16.
  RowsLimit(std::int64_t height, std::int64_t columns, std::vector<std::int32_t> rows,
            std::int64_t threads);
  void run(std::int64_t passes);

 private:
  void run_part(std::int64_t begin, std::int64_t end);

  std::int64_t columns_, threads_;
  std::vector<std::int32_t> rows_;
  std::vector<std::uint32_t> grads_;
  std::array<std::vector<std::uint32_t>, 3> tables_;
};

}  // namespace nadam_xla::cpu
