#include "kernels/cpu/update.h"

#include "kernels/cpu/instruction_set.h"
#include "kernels/update_rule.h"

namespace nadam_xla::cpu {

template <typename T>
UpdateWork<T>::UpdateWork(UpdateCall<T> call, const std::int64_t threads)
    : call_(std::move(call)),
      plan_(plan_of(call_.leaves, call_.batch, threads)),
      loop_(update_loop<T>()) {
  for (Leaf& leaf : call_.leaves) leaf = entry_of(leaf, call_.entry);
}

template <typename T>
void UpdateWork<T>::run(const std::int64_t chunk) const {
  plan_.for_each_stretch(chunk, [this](std::int64_t leaf, std::int64_t entry, std::int64_t begin,
                                       std::int64_t length) {
    const Leaf& whole = call_.leaves[leaf];
    const std::int64_t row = entry * call_.rows + call_.row_of(leaf);
    const T* const coefficients = call_.coefficients + row * call_.format.length;
    loop_({read_row(coefficients, call_.format, call_.streams),
           part_of(whole, entry * whole.length + begin, length), call_.returns, call_.streams,
           call_.rounding,
           call_.rounding == Rounding::kStochastic ? read_key(coefficients) : RandomKey{}, begin});
  });
}

template class UpdateWork<float>;
template class UpdateWork<double>;

}  // namespace nadam_xla::cpu
