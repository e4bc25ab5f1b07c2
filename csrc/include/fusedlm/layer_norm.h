#pragma once
#include "fusedlm/device.h"
#include "fusedlm/tensor.h"

namespace fusedlm {

/// y = (x - mean) / sqrt(var + eps) * weight + bias, row by row (Ba et al. 2016, arXiv:1607.06450).
/// With `residual`, first sum = x + residual (rounded to its dtype), and the norm is taken of sum;
/// both are given or neither.
///   x, residual, sum, y  [N, C]  float32 or bfloat16, all the same, rows contiguous
///   weight, bias         [C]     float32 or bfloat16, the same; bias may be undefined
///   mean, rstd           [N]     float32, kept for the backward
/// Throws as every op (errors.h), InvalidArgument where C == 0 too.
struct LayerNormForward {
  TensorView x, residual{}, weight, bias{}, y, sum{}, mean, rstd;
  float eps = 1e-5f;
};
void layer_norm_forward(const LayerNormForward& args, Context& ctx);

/// With xhat = (x - mean) * rstd and g = dy * weight:
/// dx = rstd * (g - mean(g) - xhat * mean(g * xhat)) + dsum; dweight, dbias [C] float32, in row order.
///   x     [N, C]  what was normalised: the forward's `sum` where there was a residual
///   dsum  [N, C]  gradient arriving at `sum` from elsewhere; may be undefined
///   dx    [N, C]  also the gradient of the residual
/// Throws as the forward.
struct LayerNormBackward {
  TensorView dy, x, weight, mean, rstd, dsum{}, dx, dweight, dbias{};
};
void layer_norm_backward(const LayerNormBackward& args, Context& ctx);

}  // namespace fusedlm
