#pragma once
#include "fusedlm/device.h"
#include "fusedlm/tensor.h"

namespace fusedlm {

/// out[n] = weight[tokens[n]] + position_weight[positions[n]].
///   tokens, positions [N] int64; weight [V, C], position_weight [P, C] float32 or bfloat16, the same;
///   out [N, C] float32 or bfloat16. position_weight and positions are both given or both undefined.
/// Throws as every op (errors.h), InvalidArgument naming the first token outside [0, V) too, before anything is
/// written. Tokens on a GPU are not looked at first: there such a row of out is NaN.
struct EmbeddingForward {
  TensorView tokens, weight, positions{}, position_weight{}, out;
};
void embedding_forward(const EmbeddingForward& args, Context& ctx);

/// dweight[v] = sum of dout[n] over n with tokens[n] == v, in order of n; rows of padding_idx and of
/// tokens that do not occur are 0. The same kernel gives the gradient of positions.
///   dout [N, C] float32 or bfloat16; tokens [N] int64; dweight [V, C] float32 or bfloat16
///   (summed in float32, then rounded)
/// Throws as the forward; on a GPU tokens outside [0, V) belong to no row.
struct EmbeddingBackward {
  TensorView dout, tokens, dweight;
  index_t padding_idx = -1;  // none
};
void embedding_backward(const EmbeddingBackward& args, Context& ctx);

}  // namespace fusedlm
