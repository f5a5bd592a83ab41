#include "kernels/cpu/instruction_set.h"

#include <cstdlib>
#include <stdexcept>

#if defined(NADAM_XLA_X86_64)
#include "kernels/cpu/x86_features.h"
#endif

namespace nadam_xla::cpu {

namespace baseline {
extern const InstructionSet kInstructionSet;
}
#if defined(NADAM_XLA_X86_64)
namespace avx2 {
extern const InstructionSet kInstructionSet;
}
namespace avx512 {
extern const InstructionSet kInstructionSet;
}
#endif

namespace {

std::vector<const InstructionSet*> available() {
  std::vector<const InstructionSet*> sets = {&baseline::kInstructionSet};
#if defined(NADAM_XLA_X86_64)
  if (has_avx2_and_fma()) {
    sets.push_back(&avx2::kInstructionSet);
    if (has_avx512()) sets.push_back(&avx512::kInstructionSet);
  }
#endif
  return sets;
}

const InstructionSet& choose() {
  const auto sets = available();
  const char* const limit = std::getenv("NADAM_XLA_MAX_ISA");
  if (limit == nullptr || *limit == '\0') return *sets.back();
  std::string names;
  for (const InstructionSet* set : sets) {
    if (std::string(set->name) == limit) return *set;
    names += std::string(names.empty() ? "" : ", ") + set->name;
  }
  throw std::invalid_argument("NADAM_XLA_MAX_ISA is '" + std::string(limit) +
                              "'; this machine can run: " + names);
}

}  // namespace

const InstructionSet& instruction_set() {
  static const InstructionSet& chosen = choose();
  return chosen;
}

std::vector<std::string> available_instruction_sets() {
  std::vector<std::string> names;
  for (const InstructionSet* set : available()) names.emplace_back(set->name);
  return names;
}

template <>
UpdateLoop<float> update_loop<float>() {
  return instruction_set().update_f32;
}

template <>
UpdateLoop<double> update_loop<double>() {
  return instruction_set().update_f64;
}

template <>
SumSquaresLoop<float> sum_squares_loop<float>() {
  return instruction_set().sum_squares_f32;
}

template <>
SumSquaresLoop<double> sum_squares_loop<double>() {
  return instruction_set().sum_squares_f64;
}

}  // namespace nadam_xla::cpu
