#pragma once
// From run-time dtypes to template parameters, and the ordered sum of per-task partial gradients.

#include "cpu/vec.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

/// fn(float{}) or fn(bfloat16{}).
template <class Fn>
FUSEDLM_VEC void switch_float(DType dtype, Fn&& fn) {
  if (dtype == DType::float32) {
    fn(float{});
  } else {
    fn(bfloat16{});
  }
}

/// total[c] = sum over rows, in row order, of rows[r * C + c].
FUSEDLM_VEC void sum_rows(const float* rows, index_t count, index_t C, float* total) {
  const auto column = [&](index_t c, auto... n) {
    Vec sum;
    for (index_t r = 0; r < count; ++r) sum = sum + Vec::load(rows + r * C + c, n...);
    sum.store(total + c, n...);
  };
  for_each_vec(C, column, column);
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
