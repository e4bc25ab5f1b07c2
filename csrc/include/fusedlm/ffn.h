#pragma once
#include "fusedlm/activation.h"
#include "fusedlm/device.h"
#include "fusedlm/tensor.h"

namespace fusedlm {

/// y = h down_weight^T + down_bias + residual, with u = x up_weight^T + up_bias and
///   h = activation(u), or, given gate_weight, h = activation(g) * u with g = x gate_weight^T + gate_bias
///   (SwiGLU with silu, GEGLU with gelu: Shazeer 2020, arXiv:2002.05202).
///   x [N, C], residual, y [N, C]   float32 or bfloat16, the same, rows contiguous
///   up_weight, gate_weight [F, C], down_weight [C, F], up_bias, gate_bias [F], down_bias [C]
///   up, gate [N, F] like x, dense: u and g, kept for the backward, which recomputes h from them; gate is
///            there exactly where gate_weight is
/// Weights and biases are float32 or bfloat16. Throws as every op (errors.h).
struct FfnForward {
  TensorView x, up_weight, up_bias{}, gate_weight{}, gate_bias{}, down_weight, down_bias{},
      residual{};
  TensorView up, gate{}, y;
  Activation activation = Activation::gelu;
};
void ffn_forward(const FfnForward& args, Context& ctx);

/// dy, dx like x; x, up and gate as the forward had and left them. Gradients have the shapes of what they
/// belong to, weights' in float32 or bfloat16, biases' in float32; undefined ones are skipped (but dx).
/// The residual's gradient is dy itself. Throws as every op (errors.h).
struct FfnBackward {
  TensorView dy, x, up_weight, gate_weight{}, down_weight, up, gate{};
  TensorView dx, dup_weight{}, dup_bias{}, dgate_weight{}, dgate_bias{}, ddown_weight{},
      ddown_bias{};
  Activation activation = Activation::gelu;
};
void ffn_backward(const FfnBackward& args, Context& ctx);

}  // namespace fusedlm
