#pragma once
#include "fusedlm/device.h"
#include "fusedlm/tensor.h"

namespace fusedlm {

enum class Reduction : uint8_t { none, mean, sum };

/// What a row of logits loses. With l = softcap tanh(logits / softcap) (or the logits), class weights w
/// (or 1), e = label_smoothing and lse = log(sum(exp(l))), a row with target y loses
///   (1 - e) w[y] (lse - l[y]) + e / V sum_j w[j] (lse - l[j]) + z_loss w[y] lse^2
/// and nothing if y == ignore_index. `mean` divides by the sum of w[y] over the rows that count.
/// Label smoothing: Szegedy et al. 2015 (arXiv:1512.00567); z-loss: Chowdhery et al. 2022 (arXiv:2204.02311).
struct CrossEntropyOptions {
  Reduction reduction = Reduction::mean;
  index_t ignore_index = -100;
  float label_smoothing = 0.0f, z_loss = 0.0f, softcap = 0.0f;
};

/// The loss of logits that are given. Where the logits come from a linear layer, linear_cross_entropy
/// never makes the whole of them.
///   logits       [N, V] float32|bfloat16, rows contiguous; targets [N] int64
///   class_weight [V] float32 or undefined
///   loss         [N] float32 for none, else [1]
///   lse          [N] float32, kept for the backward; 0 where a row does not count
/// Throws as every op (errors.h), InvalidArgument naming the row whose target is out of range too; on CUDA, where
/// that would mean waiting for the GPU, such a row's loss is NaN instead, and with it a sum or a mean.
struct CrossEntropyForward {
  TensorView logits, targets, class_weight, loss, lse;
  CrossEntropyOptions options;
};
void cross_entropy_forward(const CrossEntropyForward& args, Context& ctx);

/// dlogits [N, V] as logits, which are read again: nothing of their size is kept in between.
///   dloss [N] float32 for none, else [1]: the gradient arriving at the loss
/// Throws as the forward; on CUDA the gradient of a row whose target is out of range is NaN, under a mean that of
/// every row that counts.
struct CrossEntropyBackward {
  TensorView dloss, logits, targets, class_weight, lse, dlogits;
  CrossEntropyOptions options;
};
void cross_entropy_backward(const CrossEntropyBackward& args, Context& ctx);

}  // namespace fusedlm
