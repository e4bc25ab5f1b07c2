#pragma once
#include <vector>

#include "fusedlm/device.h"
#include "fusedlm/tensor.h"

namespace fusedlm {

/// sqrt(sum of squares over all elements of all gradients). Squares are added in fixed blocks, the
/// blocks in double and in order: the same bits for any number of threads.
///   grads   float32 or bfloat16, any shape, dense
///   norm    where the host wants the value, or null; on CUDA this waits for the stream
///   result  [] float64 on the device of grads, or undefined; written without any wait
/// Not finite exactly when an element is not (or the sum exceeds a double). Throws as every op (errors.h).
struct GradNorm {
  std::vector<TensorView> grads;
  double* norm = nullptr;
  TensorView result{};
};
void grad_norm(const GradNorm& args, Context& ctx);

/// One step of AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) on many tensors in one pass:
///   g = clip_scale * grad;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
///   param = param (1 - lr weight_decay) - lr / (1 - beta1^step) * m / (sqrt(v / (1 - beta2^step)) + eps)
///   params                float32 or bfloat16 (updated in float32, then rounded)
///   grads                 float32 or bfloat16, shaped like the parameter
///   exp_avgs, exp_avg_sqs float32, shaped like the parameter: m and v
///   lrs, weight_decays, steps  one for each parameter; steps count from 1
/// Everything dense. Throws as every op (errors.h), naming an argument with its index.
struct AdamwStep {
  std::vector<TensorView> params, grads, exp_avgs, exp_avg_sqs;
  std::vector<double> lrs, weight_decays;
  std::vector<index_t> steps;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, clip_scale = 1.0;
};
void adamw_step(const AdamwStep& args, Context& ctx);

}  // namespace fusedlm
