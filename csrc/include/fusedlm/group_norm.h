#pragma once
#include "fusedlm/device.h"
#include "fusedlm/tensor.h"

namespace fusedlm {

/// y = (x - mean) / sqrt(var + eps) * weight + bias; mean and var are those of a group of C / groups
/// neighbouring channels of a sample (Wu & He 2018, arXiv:1803.08494).
///   x, y          [B, C, S]    float32 or bfloat16, the same, contiguous; S: what is behind the channels
///   weight, bias  [C]          float32 or bfloat16, the same; either may be undefined: 1, 0
///   mean, rstd    [B, groups]  float32, kept for the backward
/// Throws as every op (errors.h), InvalidArgument where C == 0 or C is no multiple of groups too.
struct GroupNormForward {
  TensorView x, weight{}, bias{}, y, mean, rstd;
  index_t groups = 1;
  float eps = 1e-5f;
};
void group_norm_forward(const GroupNormForward& args, Context& ctx);

/// With xhat = (x - mean) * rstd, g = dy * weight, and means over the group:
/// dx = rstd * (g - mean(g) - xhat * mean(g * xhat)); dweight and dbias are sums of dy * xhat and dy.
///   dy, dx         [B, C, S]  as x
///   dweight, dbias [C]        float32, added in an order that depends on the shape alone; either may be
///                             undefined
/// Throws as the forward.
struct GroupNormBackward {
  TensorView dy, x, weight{}, mean, rstd, dx, dweight{}, dbias{};
  index_t groups = 1;
};
void group_norm_backward(const GroupNormBackward& args, Context& ctx);

}  // namespace fusedlm
