#pragma once
// Matrix products for every op that needs one, on views; and the small passes around them. The
// kernel: cuda/gemm_kernel.h.

#include "cuda/launch.h"
#include "fusedlm/activation.h"

namespace fusedlm::FUSEDLM_DEVICE {

/// Scratch for sums that the kernels of a call write and read one after the other: an op that
/// multiplies once for each of many chunks hands the same to all, and so does not pile them up.
class SumScratch {
 public:
  float* take(index_t count, Context& ctx) {
    if (count > count_) data_ = device_scratch<float>(ctx, count), count_ = count;
    return data_;
  }

 private:
  float* data_ = nullptr;
  index_t count_ = 0;
};

/// What is multiplied, by how the operands lie in memory.
enum class Form : uint8_t {
  rows_by_rows,        // A [M, K], B [N, K]: C = A B^T, as in y = x W^T
  rows_by_columns,     // A [M, K], B [K, N]: C = A B,   as in dx = dy W
  columns_by_columns,  // A [K, M], B [K, N]: C = A^T B, as in dW = dy^T x
};

/// What happens to the sums v before they are written, while a tile is in the block's hands.
enum class Finish : uint8_t {
  linear,       // pre = v + bias; out = activation(pre) + residual (+ out before, with accumulate)
  gate,         // pre = v + bias; out = activation(pre) * up
  slope,        // out = v * activation'(up); hidden = activation(up)
  gated_slope,  // out = v * activation(gate); dgate = v * up * activation'(gate);
                // hidden = activation(gate) * up
};

/// C [M, N] = finish(A * B), or finish(A * B + A2 * B2). Operands of another dtype than `dtype`, or
/// with rows that do not start at 16 bytes, are first copied into scratch: against what a product
/// reads that is little, and every product then runs at the speed of the asynchronous copies. For
/// the same reason a float32 weight of bfloat16 activations is rounded by one pass of its own, not
/// again in each of the M / 128 blocks that read it.
struct Gemm {
  Form form;
  DType dtype;  // of the products; half types are summed in float32
  TensorView a = {}, b = {}, a2 = {}, b2 = {};
  TensorView out = {};            // float32, or any float: through scratch where it is not `dtype`
  TensorView bias = {};           // [N], alike
  TensorView preactivation = {};  // pre, in `dtype`, as are the following
  TensorView residual = {}, up = {}, gate = {}, hidden = {}, dgate = {};
  Finish finish = Finish::linear;
  Activation activation = Activation::none;
  bool accumulate = false;  // into a float32 out
};
void gemm(const Gemm& args, SumScratch& scratch, Context& ctx);
inline void gemm(const Gemm& args, Context& ctx) {
  SumScratch own;
  gemm(args, own, ctx);
}

/// Scratch [rows, columns] whose rows start at 16 bytes.
TensorView scratch_rows(DType dtype, index_t rows, index_t columns, Context& ctx);
/// to = from, of the same shape.
void copy_rows(const TensorView& from, const TensorView& to, Context& ctx);
/// `view` itself where products can read it as `dtype`, else a copy: made here once by who
/// multiplies it more than once.
TensorView operand(const TensorView& view, DType dtype, Context& ctx);
/// total[c] = sum over rows of view[r][c] (+ total[c], with accumulate), in float32 and in an order
/// that depends on the shape alone.
void column_sums(const TensorView& view, float* total, bool accumulate, SumScratch& scratch,
                 Context& ctx);
inline void column_sums(const TensorView& view, float* total, Context& ctx) {
  SumScratch own;
  column_sums(view, total, false, own, ctx);
}

}  // namespace fusedlm::FUSEDLM_DEVICE
