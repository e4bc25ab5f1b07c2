// Linear layer: one product whose epilogue adds the bias, activates and adds the residual while the
// tile is in the block's hands. The backward forms dpre = dy * activation'(preactivation) once, then
// dx = dpre W, dW = dpre^T x and dbias = column sums of dpre.

#include "cuda/activation.h"
#include "cuda/elementwise.h"
#include "cuda/gemm.h"
#include "fusedlm/linear.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

template <class T>
struct SlopeTimes {
  Rows<const T> dy, preactivation;
  Rows<T> dpre;
  Activation activation;

  template <int V>
  __device__ __forceinline__ void run(index_t row, int column) const {
    float d[V], pre[V];
    load_floats(dy.at(row, column), d);
    load_floats(preactivation.at(row, column), pre);
#pragma unroll
    for (int j = 0; j < V; ++j) d[j] *= activate(activation, pre[j]).slope;
    store_floats(dpre.at(row, column), d);
  }
};

TensorView slope_times(const LinearBackward& a, Context& ctx) {
  const index_t N = a.dy.shape[0], O = a.dy.shape[1];
  const TensorView dpre = scratch_rows(a.x.dtype, N, O, ctx);
  switch_float(a.x.dtype, [&](auto t) {
    using T = decltype(t);
    const bool packed = can_pack(a.dy, 4 * sizeof(T)) && can_pack(a.preactivation, 4 * sizeof(T));
    elementwise("linear_backward: dpre",
                SlopeTimes<T>{rows_of<const T>(a.dy), rows_of<const T>(a.preactivation),
                              rows_of<T>(dpre), a.activation},
                N, O, packed, ctx);
  });
  return dpre;
}

}  // namespace

void linear_forward(const LinearForward& a, Context& ctx) {
  gemm({.form = Form::rows_by_rows,
        .dtype = a.x.dtype,
        .a = a.x,
        .b = a.weight,
        .out = a.y,
        .bias = a.bias,
        .preactivation = a.preactivation,
        .residual = a.residual,
        .activation = a.activation},
       ctx);
}

void linear_backward(const LinearBackward& a, Context& ctx) {
  const DType dtype = a.x.dtype;
  const TensorView dpre = a.activation != Activation::none ? slope_times(a, ctx) : a.dy;
  if (a.dbias.defined()) column_sums(dpre, a.dbias.as<float>(), ctx);
  if (!a.dx.defined() && !a.dweight.defined()) return;
  const TensorView factor = operand(dpre, dtype, ctx);
  if (a.dx.defined()) {
    gemm({.form = Form::rows_by_columns, .dtype = dtype, .a = factor, .b = a.weight, .out = a.dx},
         ctx);
  }
  if (a.dweight.defined()) {
    gemm(
        {.form = Form::columns_by_columns, .dtype = dtype, .a = factor, .b = a.x, .out = a.dweight},
        ctx);
  }
}

}  // namespace fusedlm::FUSEDLM_DEVICE
