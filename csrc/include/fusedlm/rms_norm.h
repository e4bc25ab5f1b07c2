#pragma once
#include "fusedlm/device.h"
#include "fusedlm/tensor.h"

namespace fusedlm {

/// y = x / sqrt(mean(x^2) + eps) * weight, row by row (Zhang & Sennrich 2019, arXiv:1910.07467).
/// With `residual`, first sum = x + residual (rounded to its dtype), and the norm is taken of sum;
/// both are given or neither.
///   x, residual, sum, y  [N, C]  float32 or bfloat16, all the same, rows contiguous
///   weight               [C]     float32 or bfloat16
///   rstd                 [N]     float32, 1 / sqrt(mean + eps), kept for the backward
/// Throws as every op (errors.h), InvalidArgument where C == 0 too.
struct RmsNormForward {
  TensorView x, residual{}, weight, y, sum{}, rstd;
  float eps = 1e-5f;
};
void rms_norm_forward(const RmsNormForward& args, Context& ctx);

/// With xhat = x * rstd and g = dy * weight: dx = rstd * (g - xhat * mean(g * xhat)) + dsum,
/// dweight = sum over rows of dy * xhat, float32, added in row order.
///   x     [N, C]  what was normalised: the forward's `sum` where there was a residual
///   dsum  [N, C]  gradient arriving at `sum` from elsewhere; may be undefined
///   dx    [N, C]  also the gradient of the residual
/// Throws as the forward.
struct RmsNormBackward {
  TensorView dy, x, weight, rstd, dsum{}, dx, dweight;
};
void rms_norm_backward(const RmsNormBackward& args, Context& ctx);

}  // namespace fusedlm
