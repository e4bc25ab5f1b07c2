#pragma once
#include "fusedlm/cross_entropy.h"
#include "fusedlm/device.h"
#include "fusedlm/tensor.h"

namespace fusedlm {

/// Cross-entropy of logits = x weight^T + bias against targets, with its gradients, while only a chunk of
/// rows of the logits (in the dtype of x) exists at a time. What a row loses is in cross_entropy.h.
///   x [N, C] float32|bfloat16; weight [V, C], bias [V] float32|bfloat16; targets [N] int64
///   class_weight [V] float32 or undefined
///   loss       [N] float32 for none, else [1]
///   row_grad   [N] float32: the gradient arriving at each row's loss; only for none, where any of
///              dx, dweight, dbias is defined. For mean and sum they are the gradients of the loss itself
///   dx [N, C] as x; dweight [V, C] float32 or as weight, dbias [V] float32; each may be undefined
/// Throws as every op (errors.h), InvalidArgument naming the row whose target is out of range too; on CUDA, where
/// that would mean waiting for the GPU, such a row's loss is NaN instead, and with it what adds up rows: a sum or a
/// mean, dweight, dbias. Its row of dx is NaN, under a mean that of every row that counts.
struct LinearCrossEntropy {
  TensorView x, weight, bias{}, targets, class_weight{}, row_grad{}, loss, dx{}, dweight{}, dbias{};
  CrossEntropyOptions options{};
};
void linear_cross_entropy(const LinearCrossEntropy& args, Context& ctx);

}  // namespace fusedlm
