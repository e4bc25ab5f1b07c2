#pragma once
#include "fusedlm/activation.h"
#include "fusedlm/device.h"
#include "fusedlm/tensor.h"

namespace fusedlm {

/// y = activation(x weight^T + bias) + residual.
///   x [N, K] float32 or bfloat16; residual, y, preactivation [N, O] like x; rows contiguous
///   weight [O, K], bias [O]  float32 or bfloat16; a float32 weight with a bfloat16 x is rounded while
///                            it is packed, so no copy of it is ever made (on CUDA, in scratch)
///   preactivation            x weight^T + bias, kept for the backward; may be undefined
/// bfloat16 x: products in bfloat16, sums in float32. Throws as every op (errors.h).
struct LinearForward {
  TensorView x, weight, bias{}, residual{}, y, preactivation{};
  Activation activation = Activation::none;
};
void linear_forward(const LinearForward& args, Context& ctx);

/// dy [N, O], dx [N, K] like x, dweight [O, K] float32 or bfloat16, dbias [O] float32; undefined ones are
/// skipped. preactivation is the forward's, needed where there is an activation.
/// The residual's gradient is dy itself. Throws as every op (errors.h).
struct LinearBackward {
  TensorView dy, x, weight, preactivation{}, dx{}, dweight{}, dbias{};
  Activation activation = Activation::none;
};
void linear_backward(const LinearBackward& args, Context& ctx);

}  // namespace fusedlm
