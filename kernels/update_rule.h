// The Nadam update of one element, and the row of coefficients that drives it.
//
// This is the only place in C++ that knows the rule; the CPU loops and the CUDA kernels call it.
// Everything that changes from step to step (learning rate, momentum schedule, bias correction,
// decay, clipping, loss scale, skipping) arrives folded into the row.
//
//   g' = clamp(grad_scale * g, -clip_value, +clip_value) + l2 * p
//   m' = b1 * m + one_minus_b1 * g'
//   v' = b2 * v + one_minus_b2 * g' * g'
//   p' = p - (decay * p
//             + learning_rate * ((c_m * m' + c_g * g') / (sqrt(c_v * v' + eps_root) + eps)))
//   average' = average_decay * average + one_minus_average_decay * p', where there is an average
//
// The change is what is taken from p, negated, so p plus the change that a call returns is, to the
// bit, the p' that another returns.
//
// A decay or l2 of zero is no term at all: an infinite parameter stays what it is.
//
// Sources: Kingma & Ba 2015 (the moments and their bias correction), Dozat 2016 (the Nesterov
// momentum that c_m and c_g carry).
#pragma once

#include <math.h>

#include <cstdint>
#include <limits>

#include "kernels/host_device.h"
#include "kernels/random_bits.h"
#include "kernels/streams.h"

namespace nadam_xla {

// How the coefficients stand in a row.
enum class RowLayout {
  // Of nadam_xla_update_v1: without b1, b2 and learning_rate. Infinite gradients are not clamped.
  kV1,
  // As kRowFields has them. A clip_value of zero clamps nothing.
  kV2,
};

inline constexpr int kRowLength = 23;

// The order of RowLayout::kV2; nadam_xla/coefficients.py has it too. From seed_high to shard is the
// key of the random numbers: a float32 holds whole numbers of 24 bits, so 32 bits are two halves.
inline constexpr const char* kRowFields[kRowLength] = {
    "c_m", "c_g", "c_v", "b1", "one_minus_b1", "b2", "one_minus_b2", "learning_rate", "eps",
    "eps_root", "decay", "l2", "grad_scale", "clip_value", "skip", "seed_high", "seed_low",
    "step_high", "step_low", "leaf", "shard",
    // The weights of an average.
    "average_decay", "one_minus_average_decay"};

// How the rows of a table are read. A row of kV2 may end behind grad_scale: coefficients that are
// not there are zero, which switches them off. So a program that was exported before a coefficient
// was added, at the end, goes on running.
struct RowFormat {
  RowLayout layout;
  int length;

  static constexpr int shortest(const RowLayout layout) {
    return layout == RowLayout::kV1 ? 12 : 13;
  }
  static constexpr int longest(const RowLayout layout) {
    return layout == RowLayout::kV1 ? 12 : kRowLength;
  }
  // With the key of the random numbers.
  static constexpr int shortest_with_key() { return 21; }
  // With the weights of an average.
  static constexpr int shortest_with_average() { return 23; }
};

// A limit of zero limits nothing.
template <typename T>
NADAM_XLA_INLINE constexpr T limit(const T given) {
  return given == T(0) ? std::numeric_limits<T>::infinity() : given;
}

// Within a limit that is NaN nothing is known to be: the gradients are then NaN, all of them.
template <typename T>
NADAM_XLA_INLINE constexpr T scale_within(const T limit, const T scale) {
  return limit == limit ? scale : limit;
}

template <typename T>
struct Row {
  T c_m, c_g, c_v, b1, one_minus_b1, b2, one_minus_b2, learning_rate, eps, eps_root, decay, l2,
      grad_scale, clip_value;
  bool skip, clips_infinity;
  T average_decay = T(0), one_minus_average_decay = T(0);
};

// Without parameters nothing decays, whatever the row says.
template <typename T>
NADAM_XLA_INLINE Row<T> read_row(const T* const row, const RowFormat format,
                                 const StreamSet streams) {
  if (format.layout == RowLayout::kV1) {
    const bool skip = row[11] != T(0);
    return {row[0], row[1], row[2], T(1) - row[3], row[3], T(1) - row[4], row[4], T(1),
            row[5], row[6], row[7], row[8],        row[9], row[10],       skip,   false};
  }
  const auto at = [&](const int i) { return i < format.length ? row[i] : T(0); };
  const bool has_params = streams.has(Stream::kParams);
  const T decay = has_params ? row[10] : T(0);
  const T l2 = has_params ? row[11] : T(0);
  const bool skip = at(14) != T(0);
  const T scale = scale_within(at(13), row[12]);
  Row<T> read{row[0], row[1], row[2], row[3], row[4], row[5],        row[6], row[7],
              row[8], row[9], decay,  l2,     scale,  limit(at(13)), skip,   true};
  read.average_decay = at(21);
  read.one_minus_average_decay = at(22);
  return read;
}

// Of what is no number of 32 bits, as a GPU has it: the nearest that is, and of NaN zero. For other
// processors C++ says nothing of it.
template <typename T>
NADAM_XLA_INLINE std::int32_t whole_number(const T x) {
#if !defined(__CUDA_ARCH__)
  using Limits = std::numeric_limits<std::int32_t>;
  constexpr T kBeyond = T(2147483648.0);
  if (!(x >= -kBeyond)) return x < T(0) ? Limits::min() : 0;
  if (x >= kBeyond) return Limits::max();
#endif
  return static_cast<std::int32_t>(x);
}

// The row's key must be there.
template <typename T>
NADAM_XLA_INLINE RandomKey read_key(const T* const row) {
  const auto whole = [row](const int i) {
    return static_cast<std::uint32_t>(whole_number(row[i]));
  };
  return {whole(15) << 16 | whole(16), whole(20), whole(19), whole(17) << 16 | whole(18)};
}

// One element of each stream that the rule knows.
template <typename T, Averaging kAveraging>
struct Element {
  T of[rule_streams(kAveraging)];

  NADAM_XLA_INLINE T operator[](const Stream stream) const { return of[static_cast<int>(stream)]; }
};

// What an element becomes; `params` is p + change.
template <typename T, Averaging kAveraging>
struct Updated {
  T params, change, states[rule_states(kAveraging)];
};

NADAM_XLA_INLINE float square_root(float x) { return ::sqrtf(x); }
NADAM_XLA_INLINE double square_root(double x) { return ::sqrt(x); }
NADAM_XLA_INLINE float magnitude(float x) { return ::fabsf(x); }
NADAM_XLA_INLINE double magnitude(double x) { return ::fabs(x); }

// NaN passes through: a clamp must not hide that a gradient went bad.
template <typename T>
NADAM_XLA_INLINE T within(const T limit, const T x) {
  const T from_above = x > limit ? limit : x;
  return from_above < -limit ? -limit : from_above;
}

template <typename T>
NADAM_XLA_INLINE T clamp(const Row<T>& row, const T x) {
  constexpr T kLargest = std::numeric_limits<T>::max();
  const bool is_clamped = row.clips_infinity || magnitude(x) <= kLargest;
  return is_clamped ? within(row.clip_value, x) : x;
}

// Zero where the coefficient switches the term off, which 0 * infinity would not be.
template <typename T>
NADAM_XLA_INLINE T product_if_on(const T coefficient, const T x) {
  return coefficient == T(0) ? T(0) : coefficient * x;
}

// What is added to a parameter that is skipped: a zero that leaves minus zero what it is.
template <typename T>
inline constexpr T kNoChange = -T(0);

// Which of the optional terms a row may have: what it has not need not cost anything. A plain one
// has none, nor does it scale gradients or add anything inside the root.
enum class Terms { kPlain, kNone, kDecay, kDecayAndClamp };

template <typename T>
NADAM_XLA_INLINE Terms terms_of(const Row<T>& row) {
  if (!row.clips_infinity || row.clip_value != std::numeric_limits<T>::infinity()) {
    return Terms::kDecayAndClamp;
  }
  return row.decay == T(0) && row.l2 == T(0) ? Terms::kNone : Terms::kDecay;
}

// Of a row without optional terms. Its eps hides which sign a root of zero has.
template <typename T>
NADAM_XLA_INLINE bool is_plain(const Row<T>& row) {
  return row.grad_scale == T(1) && row.eps_root == T(0) && row.eps > T(0);
}

// The caller handles `row.skip`: a skipped leaf needs no arithmetic at all.
template <Terms kTerms = Terms::kDecayAndClamp, typename T, Averaging kAveraging>
NADAM_XLA_INLINE Updated<T, kAveraging> update_rule(const Row<T>& row,
                                                    const Element<T, kAveraging>& of) {
  const T p = of[Stream::kParams];
  const auto decayed = [p](const T coefficient) {
    constexpr bool kMayDecay = kTerms == Terms::kDecay || kTerms == Terms::kDecayAndClamp;
    return kMayDecay ? product_if_on(coefficient, p) : T(0);
  };
  constexpr bool kIsPlain = kTerms == Terms::kPlain;
  const T g = of[Stream::kGrads];
  const T scaled = kIsPlain ? g : row.grad_scale * g;
  const T clamped = kTerms == Terms::kDecayAndClamp ? clamp(row, scaled) : scaled;
  const T gradient = clamped + decayed(row.l2);
  const T mu = row.b1 * of[Stream::kMu] + row.one_minus_b1 * gradient;
  const T nu = row.b2 * of[Stream::kNu] + row.one_minus_b2 * (gradient * gradient);
  const T corrected_nu = row.c_v * nu;
  const T root = square_root(kIsPlain ? corrected_nu : corrected_nu + row.eps_root);
  const T step = row.learning_rate * ((row.c_m * mu + row.c_g * gradient) / (root + row.eps));
  const T taken = decayed(row.decay) + step;
  const T params = p - taken;
  if constexpr (kAveraging == Averaging::kOn) {
    const T average =
        row.average_decay * of[Stream::kAverage] + row.one_minus_average_decay * params;
    return {params, -taken, {mu, nu, average}};
  } else {
    return {params, -taken, {mu, nu}};
  }
}

}  // namespace nadam_xla
