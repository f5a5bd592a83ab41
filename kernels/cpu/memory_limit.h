// What the machine's memory allows: the streams of an update, with next to no arithmetic.
#pragma once

#include <cstdint>
#include <vector>

namespace nadam_xla::cpu {

// Four arrays of float32, of which every pass reads all and writes three, on `threads` threads.
class MemoryLimit {
 public:
  MemoryLimit(std::int64_t elements, std::int64_t threads);
  void run(std::int64_t passes);

 private:
  std::vector<float> params_, grads_, mu_, nu_;
  std::int64_t threads_;
};

}  // namespace nadam_xla::cpu
