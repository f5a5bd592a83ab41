#include "tests/native_boundary/fixed_calls.h"

#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/native_boundary/call_frame.h"
#include "tests/native_boundary/counted_memory.h"
#include "tests/native_boundary/handlers.h"

namespace nadam_xla::native_boundary {
namespace {

constexpr int kF32 = XLA_FFI_DataType_F32;
constexpr std::int64_t kColumns = 23;

Buffer zeros(Call& call, const int type, std::vector<std::int64_t> dimensions) {
  std::size_t bytes = static_cast<std::size_t>(size_of_type(type));
  for (const std::int64_t dimension : dimensions) bytes *= static_cast<std::size_t>(dimension);
  call.memory.push_back(std::make_shared<Memory>(bytes));
  std::fill_n(call.memory.back()->data(), bytes, static_cast<unsigned char>(0));
  return {type, std::move(dimensions), call.memory.back()->data()};
}

// One leaf of [2, 3], each result in memory of its own.
Call update_call() {
  Call call;
  call.operands = {zeros(call, kF32, {1, 1, kColumns})};
  for (int i = 0; i < 4; ++i) call.operands.push_back(zeros(call, kF32, {2, 3}));
  for (int i = 0; i < 3; ++i) call.results.push_back(zeros(call, kF32, {2, 3}));
  call.attributes = {{"returns_change", {XLA_FFI_DataType_PRED, 0}},
                     {"streams", {XLA_FFI_DataType_S64, 15}},
                     {"first_row", {XLA_FFI_DataType_S64, 0}}};
  return call;
}

void reshape_leaf(Call& call, const std::vector<std::int64_t>& dimensions) {
  for (std::size_t i = 1; i < call.operands.size(); ++i) call.operands[i].dimensions = dimensions;
  for (Buffer& result : call.results) result.dimensions = dimensions;
}

// Two rows of a table of [5, 3].
Call rows_call() {
  Call call;
  call.operands = {zeros(call, kF32, {1, 1, kColumns}), zeros(call, XLA_FFI_DataType_S32, {2})};
  for (int i = 0; i < 4; ++i) call.operands.push_back(zeros(call, kF32, {i == 1 ? 2 : 5, 3}));
  call.results = {call.operands[2], call.operands[4], call.operands[5],
                  zeros(call, XLA_FFI_DataType_U8, {32})};
  call.attributes = {{"streams", {XLA_FFI_DataType_S64, 15}},
                     {"first_row", {XLA_FFI_DataType_S64, 0}},
                     {"rounding", {XLA_FFI_DataType_S64, 0}}};
  return call;
}

// The last entry of stacks, which is no whole step of the loops, stored as it is not computed.
Call entry_call() {
  Call call;
  call.operands = {zeros(call, XLA_FFI_DataType_S32, {}), zeros(call, kF32, {1, 1, kColumns})};
  *static_cast<std::int32_t*>(call.operands[0].data) = 3;
  for (int i = 0; i < 4; ++i) {
    const std::vector<std::int64_t> entry = {5}, stack = {4, 5};
    call.operands.push_back(zeros(call, XLA_FFI_DataType_BF16, i == 1 ? entry : stack));
  }
  call.results = {call.operands[2], call.operands[4], call.operands[5]};
  call.attributes = {{"first_row", {XLA_FFI_DataType_S64, 0}}};
  return call;
}

Call sums_call() {
  Call call;
  call.operands = {zeros(call, kF32, {2, 3})};
  call.results = {zeros(call, kF32, {1})};
  return call;
}

struct FixedCall {
  Target target;
  Call call;
  const char* refused_by;  // null: it is taken
};

FixedCall changed(const Target target, Call call, const std::function<void(Call&)>& change,
                  const char* const refused_by) {
  change(call);
  return {target, std::move(call), refused_by};
}

std::vector<FixedCall> fixed_calls() {
  constexpr std::int64_t kLarge = std::int64_t{1} << 32;
  const auto update = [](const std::function<void(Call&)>& change, const char* const refused_by) {
    return changed(Target::kUpdateV2, update_call(), change, refused_by);
  };
  const auto rows = [](const std::function<void(Call&)>& change, const char* const refused_by) {
    return changed(Target::kUpdateRows, rows_call(), change, refused_by);
  };
  const auto sums = [](const std::function<void(Call&)>& change, const char* const refused_by) {
    return changed(Target::kSumSquares, sums_call(), change, refused_by);
  };
  return {
      update([](Call&) {}, nullptr),
      rows([](Call&) {}, nullptr),
      sums([](Call&) {}, nullptr),
      // It took 24 bytes for each entry of a batch, which may be small.
      sums(
          [](Call& call) {
            call.operands = {zeros(call, kF32, {20000, 3})};
            call.results = {zeros(call, kF32, {20000, 1})};
          },
          nullptr),
      // It read as far behind the gradients as the entry stands in its stacks.
      {Target::kUpdateEntry, entry_call(), nullptr},
      // XLA's words for these did not name the target.
      update([](Call& call) { call.operands.clear(); },
             "got 0 operands; there must be coefficients"),
      changed(
          Target::kUpdateV1, update_call(), [](Call& call) { call.attributes.clear(); },
          "got 0 attributes; there is returns_change"),
      sums([](Call& call) { call.results.clear(); }, "got 0 results; there must be the sums first"),
      update([](Call& call) { call.operands[0].is_buffer = false; }, "operand 0 is no buffer"),
      // The headers print no type that they do not know: they ran off the end of a function.
      update([](Call& call) { call.operands[1].type = 63; }, "params[0] is (element type 63)[2,3]"),
      rows([](Call& call) { call.results[3].type = 63; }, "the workspace is (element type 63)"),
      // Products that overflow gave any number of elements.
      update([=](Call& call) { reshape_leaf(call, {kLarge, kLarge, 3}); },
             "params[0] is F32[4294967296,4294967296,3]; no dimension may be negative"),
      update([](Call& call) { reshape_leaf(call, {-2, -3}); }, "params[0] is F32[-2,-3]; no dim"),
      sums([=](Call& call) { call.operands[0].dimensions = {kLarge, kLarge}; },
           "operand 0 is F32[4294967296,4294967296]; no dimension"),
      rows(
          [=](Call& call) {
            for (Buffer& buffer : call.operands) {
              if (buffer.dimensions.size() == 2) buffer.dimensions = {0, kLarge, kLarge};
            }
            call.operands[3].dimensions[0] = 2;
            for (int i = 0; i < 3; ++i) call.results[i].dimensions = {0, kLarge, kLarge};
          },
          "params[0] is F32[0,4294967296,4294967296]; no dimension"),
      update([](Call& call) { call.operands[0].dimensions[1] = INT64_MIN; },
             "coefficients is F32[1,-9223372036854775808,23]; no dimension"),
      // Addresses that were read or written.
      update([](Call& call) { call.operands[2].data = nullptr; },
             "grads[0] is F32[2,3] at the address 0; it must be a multiple of 4, and not null"),
      update([](Call& call) { call.results[1].data = nullptr; }, "result mu[0] is F32[2,3] at the"),
      update([](Call& call) { call.operands[0].data = nullptr; }, "coefficients is F32[1,1,23] at"),
      sums([](Call& call) { call.results[0].data = nullptr; },
           "the result is F32[1] at the address"),
      rows([](Call& call) { call.operands[1].data = nullptr; },
           "indices is S32[2] at the address 0"),
      update(
          [](Call& call) {
            call.operands[4] = zeros(call, kF32, {3, 3});
            call.operands[4].dimensions = {2, 3};
            call.operands[4].data = static_cast<unsigned char*>(call.operands[4].data) + 2;
          },
          "nu[0] is F32[2,3] at the address "),
      // The update wrote over the numbers of the rows that it was to update.
      rows([](Call& call) { call.results[3].data = call.results[1].data; },
           "the workspace overlaps result mu[0]"),
      // Where nothing is, an address may be null.
      update(
          [](Call& call) {
            reshape_leaf(call, {0, 3});
            for (std::size_t i = 1; i < 5; ++i) call.operands[i].data = nullptr;
            for (Buffer& result : call.results) result.data = nullptr;
          },
          nullptr),
  };
}

}  // namespace

int run_fixed_calls() {
  int wrong = 0, number = 0;
  for (const FixedCall& fixed : fixed_calls()) {
    const int target = static_cast<int>(fixed.target);
    Pool pool(When::kAtOnce, 2);
    const std::int64_t before = bytes_allocated();
    const auto error = run(kCpuHandlers[target], fixed.call, pool);
    const std::int64_t allocated = bytes_allocated() - before;
    const std::string expected =
        fixed.refused_by == nullptr ? "" : std::string(kNames[target]) + ": " + fixed.refused_by;
    const bool is_right =
        fixed.refused_by == nullptr ? !error : error && error->find(expected) == 0;
    if (!is_right) {
      ++wrong;
      std::printf("fixed call %d: expected '%s', got '%s'\n", number, expected.c_str(),
                  error ? error->c_str() : "no error");
    }
    if (allocated > most_bytes(fixed.call)) {
      ++wrong;
      std::printf("fixed call %d: it took %lld bytes of memory\n", number,
                  static_cast<long long>(allocated));
    }
    ++number;
  }
  std::printf("%d fixed calls, %d wrong\n", number, wrong);
  return wrong;
}

}  // namespace nadam_xla::native_boundary
