// A stand-in for what XLA hands to a handler, and for the parts of XLA that a handler calls back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/native_boundary/pool.h"
#include "xla/ffi/api/c_api.h"

namespace nadam_xla::native_boundary {

// So many bytes and not one more: what is read or written beyond them, the sanitizer reports. Of
// another count than a multiple of `alignment` the end is exact, too.
class Memory {
 public:
  explicit Memory(const std::size_t bytes, const std::size_t alignment = 64) {
    if (posix_memalign(&data_, alignment, bytes) != 0) std::abort();
  }
  ~Memory() { std::free(data_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  unsigned char* data() const { return static_cast<unsigned char*>(data_); }

 private:
  void* data_ = nullptr;
};

struct Buffer {
  int type = XLA_FFI_DataType_F32;
  std::vector<std::int64_t> dimensions;
  void* data = nullptr;
  bool is_buffer = true;  // as its kind says
  bool is_read = true;    // by the handler
};

// A scalar, or a string in its place.
struct Attribute {
  int type = XLA_FFI_DataType_S64;
  std::int64_t value = 0;
  bool is_string = false;
};

struct Call {
  std::vector<Buffer> operands, results;
  std::map<std::string, Attribute> attributes;  // by name, as XLA sorts them
  std::vector<std::shared_ptr<Memory>> memory;
};

// What the handler returns: nothing, or its error's message.
std::optional<std::string> run(XLA_FFI_Handler* handler, const Call& call, Pool& pool);

}  // namespace nadam_xla::native_boundary
