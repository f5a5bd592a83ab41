// What handlers store, as digests: those of one machine can be compared with another's.
//
// A library, for the handlers are those of the package's module as it is installed: bits.py loads
// both. Half of the calls have numbers of about one in the place of any bits, so that sums and
// products round, and some of those have zeros, subnormals, infinities and NaN among them.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <numeric>

#include "tests/native_boundary/calls.h"

namespace nadam_xla::native_boundary {
namespace {

// How floating-point numbers of a type are laid out; a type without a mantissa is none of them.
struct Format {
  int bytes, mantissa, bias;

  std::uint64_t sign() const { return std::uint64_t{1} << (8 * bytes - 1); }
  std::uint64_t unit() const { return std::uint64_t{1} << mantissa; }  // of the exponent
  std::uint64_t infinity() const { return sign() - unit(); }
  std::uint64_t quiet() const { return infinity() + unit() / 2; }
};

Format format_of(const int type) {
  switch (type) {
    case XLA_FFI_DataType_F64:
      return {8, 52, 1023};
    case XLA_FFI_DataType_F32:
      return {4, 23, 127};
    case XLA_FFI_DataType_BF16:
      return {2, 7, 127};
    case XLA_FFI_DataType_F16:
      return {2, 10, 15};
    default:
      return {static_cast<int>(size_of_type(type)), 0, 0};
  }
}

// The bits of an element, which may be changed.
template <typename Function>
void for_each_element(const Buffer& buffer, const int bytes, const Function& function) {
  const std::int64_t elements = std::accumulate(buffer.dimensions.begin(), buffer.dimensions.end(),
                                                std::int64_t{1}, std::multiplies<>());
  auto* const data = static_cast<unsigned char*>(buffer.data);
  for (std::int64_t i = 0; i < elements; ++i) {
    std::uint64_t bits = 0;  // the lower bytes come first
    std::memcpy(&bits, data + i * bytes, static_cast<std::size_t>(bytes));
    function(bits);
    std::memcpy(data + i * bytes, &bits, static_cast<std::size_t>(bytes));
  }
}

// About which something happens in the formats.
std::uint64_t hard_number(const Format& format, Random& random) {
  return random.one_of<std::uint64_t>({0, 1, format.unit() - 1, format.unit(),
                                       format.infinity() - 1, format.infinity(),
                                       format.infinity() + 3, format.quiet() + 5});
}

// Numbers of about one. Second moments and scales are not negative; which they are is not known
// here.
void set_plain_numbers(const Buffer& buffer, Random& random) {
  const Format format = format_of(buffer.type);
  if (format.mantissa == 0) return;
  const bool has_signs = random.once_in(2), has_hard_numbers = random.once_in(4);
  const auto lowest = static_cast<std::uint64_t>(format.bias - 6);
  for_each_element(buffer, format.bytes, [&](std::uint64_t& bits) {
    const std::uint64_t sign = has_signs ? bits & format.sign() : 0;
    const std::uint64_t exponent = lowest + static_cast<std::uint64_t>(random.below(12));
    const bool is_hard = has_hard_numbers && random.once_in(16);
    bits = sign | (is_hard ? hard_number(format, random)
                           : exponent * format.unit() + bits % format.unit());
  });
}

// The operands in front that hold no numbers of leaves: the table, and an index.
std::size_t before_leaves(const Target target) {
  return target == Target::kSumSquares ? 0 : target == Target::kUpdateEntry ? 2 : 1;
}

// The results that a program reads. Behind them there is a workspace.
std::size_t results_of(const Target target, const Call& call) {
  if (target == Target::kSumSquares) return 1;
  return call.results.size() - (target == Target::kUpdateRows ? 1 : 0);
}

// Which NaN an operation gives differs from one instruction set to the next. That it is NaN does
// not.
std::uint64_t digest_of(const Target target, const Call& call) {
  std::uint64_t digest = 0xcbf29ce484222325;
  for (std::size_t i = 0; i < results_of(target, call); ++i) {
    const Format format = format_of(call.results[i].type);
    for_each_element(call.results[i], format.bytes, [&](const std::uint64_t bits) {
      const bool is_nan = format.mantissa != 0 && (bits & ~format.sign()) > format.infinity();
      digest = (digest ^ (is_nan ? format.quiet() : bits)) * 0x100000001b3;  // FNV-1a, by elements
      digest ^= digest >> 32;
    });
  }
  return digest;
}

}  // namespace
}  // namespace nadam_xla::native_boundary

// Makes `calls` right calls of these handlers, one for each of the targets, from call number
// `first` on. Returns the number of the first that is refused, or -1.
extern "C" __attribute__((visibility("default"))) std::int64_t nadam_xla_digests(
    XLA_FFI_Handler* const* const handlers, const std::int64_t first, const std::int64_t calls,
    std::uint64_t* const digests) {
  using namespace nadam_xla::native_boundary;
  for (std::int64_t i = 0; i < calls; ++i) {
    Random random(static_cast<std::uint64_t>(first + i) * 0x9e3779b97f4a7c15);
    const auto target = static_cast<Target>(random.below(kTargets));
    Pool pool(When::kAtOnce, random.one_of({0, 1, 2, 8}));
    const Call call = valid_call(target, Platform::kCpu, random);
    if (random.once_in(2)) {
      for (std::size_t j = before_leaves(target); j < call.operands.size(); ++j) {
        set_plain_numbers(call.operands[j], random);
      }
    }
    const auto error = run(handlers[static_cast<int>(target)], call, pool);
    if (error) {
      std::fprintf(stderr, "%s\n", error->c_str());
      return first + i;
    }
    digests[i] = digest_of(target, call);
  }
  return -1;
}

// The targets, in the order in which their handlers are taken; null behind the last.
extern "C" __attribute__((visibility("default"))) const char* nadam_xla_name_of_target(
    const int number) {
  using namespace nadam_xla::native_boundary;
  return number < kTargets ? kNames[number] : nullptr;
}
