#include "tests/native_boundary/counted_memory.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace {
std::atomic<std::int64_t> allocated{0};
}  // namespace

namespace nadam_xla::native_boundary {

std::int64_t bytes_allocated() { return allocated.load(); }

}  // namespace nadam_xla::native_boundary

void* operator new(const std::size_t size) {
  allocated += static_cast<std::int64_t>(size);
  void* const memory = std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void operator delete(void* const memory) noexcept { std::free(memory); }
void operator delete(void* const memory, std::size_t) noexcept { std::free(memory); }
