// The Nadam update of one element, and the row of coefficients that drives it.
//
// This is the only place in C++ that knows the rule; the CPU loops and the CUDA kernels call it.
// Everything that changes from step to step (learning rate, momentum schedule, bias correction,
// decay, clipping, loss scale, skipping) arrives folded into the row.
//
//   g' = clamp(grad_scale * g, -clip_value, +clip_value) + l2 * p
//   m' = m + one_minus_b1 * (g' - m)
//   v' = v + one_minus_b2 * (g' * g' - v)
//   p' = p - decay * p - (c_m * m' + c_g * g') / (sqrt(c_v * v' + eps_root) + eps)
//
// Sources: Kingma & Ba 2015 (the moments and their bias correction), Dozat 2016 (the Nesterov
// momentum that c_m and c_g carry).
#pragma once

#include <math.h>

#include <limits>

#include "kernels/host_device.h"

namespace nadam_xla {

inline constexpr int kRowLength = 12;

// The order in which the coefficients stand in a row; nadam_xla/coefficients.py has it too.
inline constexpr const char* kRowFields[kRowLength] = {
    "c_m",      "c_g",   "c_v", "one_minus_b1", "one_minus_b2", "eps",
    "eps_root", "decay", "l2",  "grad_scale",   "clip_value",   "skip"};

template <typename T>
struct Row {
  T c_m, c_g, c_v, one_minus_b1, one_minus_b2, eps, eps_root, decay, l2, grad_scale, clip_value;
  bool skip;
};

template <typename T>
NADAM_XLA_INLINE Row<T> read_row(const T* row) {
  return {row[0], row[1], row[2], row[3], row[4],  row[5],
          row[6], row[7], row[8], row[9], row[10], row[11] != T(0)};
}

// What an element becomes. `change` is p' - p before it is rounded into p.
template <typename T>
struct Updated {
  T params, change, mu, nu;
};

NADAM_XLA_INLINE float square_root(float x) { return ::sqrtf(x); }
NADAM_XLA_INLINE double square_root(double x) { return ::sqrt(x); }
NADAM_XLA_INLINE float magnitude(float x) { return ::fabsf(x); }
NADAM_XLA_INLINE double magnitude(double x) { return ::fabs(x); }

// NaN and infinity pass through: a clamp must not hide that a gradient went bad.
template <typename T>
NADAM_XLA_INLINE T clamp_finite(T x, T limit) {
  constexpr T kLargest = std::numeric_limits<T>::max();
  const T from_above = x > limit ? limit : x;
  const T clamped = from_above < -limit ? -limit : from_above;
  return magnitude(x) <= kLargest ? clamped : x;
}

// The caller handles `row.skip`: a skipped leaf needs no arithmetic at all.
template <typename T>
NADAM_XLA_INLINE Updated<T> update_rule(const Row<T>& row, T p, T g, T m, T v) {
  const T gradient = clamp_finite(row.grad_scale * g, row.clip_value) + row.l2 * p;
  const T mu = m + row.one_minus_b1 * (gradient - m);
  const T nu = v + row.one_minus_b2 * (gradient * gradient - v);
  const T decayed = row.decay * p;
  const T step =
      (row.c_m * mu + row.c_g * gradient) / (square_root(row.c_v * nu + row.eps_root) + row.eps);
  return {p - decayed - step, -(decayed + step), mu, nu};
}

}  // namespace nadam_xla
