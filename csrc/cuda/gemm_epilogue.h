#pragma once
// What happens to the sums of a product: bias, activation, residual, gating or the slopes of a
// feed-forward block, and the way out. In two steps, so that reads of several rows are under way
// before the first is needed: `fetch`, then `complete`.

#include "cuda/activation.h"
#include "cuda/elementwise.h"
#include "cuda/gemm.h"

namespace fusedlm::FUSEDLM_DEVICE {

/// Columns that a thread finishes together: 16 bytes of float32. In bfloat16 a warp still accesses
/// whole lines, with half the registers and code that packs of 16 bytes would take.
constexpr int kFinishPack = 4;

/// Of products of type T. Views that `finish` does not speak of have no data.
template <class T>
struct Epilogue {
  Finish finish = Finish::linear;
  Activation activation = Activation::none;
  bool out_float = true, bias_float = true;  // else T
  bool accumulate = false;
  bool packed = false;  // every view can be accessed in packs of kFinishPack
  Rows<const T> residual = {}, up = {}, gate = {};
  Rows<T> preactivation = {}, hidden = {}, dgate = {};
  void* out = nullptr;
  const void* bias = nullptr;
  index_t out_stride = 0;

  template <int V>
  struct Inputs {
    float first[V], second[V];  // residual and what `out` was, or up and gate
  };

  /// Reads what (row, column .. column + V - 1) needs besides its sums.
  template <int V>
  __device__ __forceinline__ Inputs<V> fetch(index_t row, int column) const {
    Inputs<V> in;
    if (finish == Finish::linear) {
      if (residual.data) load_floats(residual.at(row, column), in.first);
      if (accumulate) load_floats(float_out(row, column), in.second);
    } else {
      load_floats(up.at(row, column), in.first);
      if (finish == Finish::gated_slope) load_floats(gate.at(row, column), in.second);
    }
    return in;
  }

  /// Writes the results for the sums v.
  template <int V>
  __device__ __forceinline__ void complete(index_t row, int column, float (&v)[V],
                                           const Inputs<V>& in) const {
    const bool slopes = finish == Finish::slope || finish == Finish::gated_slope;
    const bool gated = finish == Finish::gated_slope;
    if (bias) add_bias(column, v);
    if (preactivation.data) {
      store_floats(preactivation.at(row, column), v);
#pragma unroll
      for (int j = 0; j < V; ++j) v[j] = to_float(from_float<T>(v[j]));  // what the backward sees
    }
    float h[V], side[V];
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float inner = !slopes ? v[j] : gated ? in.second[j] : in.first[j];
      const Activated active = activate(activation, inner);
      if (slopes) {
        h[j] = gated ? active.value * in.first[j] : active.value;
        side[j] = v[j] * in.first[j] * active.slope;
        v[j] *= gated ? active.value : active.slope;
      } else {
        v[j] = active.value;
        if (residual.data) v[j] += in.first[j];
        if (up.data) v[j] *= in.first[j];
        if (accumulate) v[j] += in.second[j];
      }
    }
    if (slopes) store_floats(hidden.at(row, column), h);
    if (gated) store_floats(dgate.at(row, column), side);
    if (out_float) {
      store_floats(float_out(row, column), v);
    } else {
      store_floats(static_cast<T*>(out) + row * out_stride + column, v);
    }
  }

 private:
  __device__ __forceinline__ float* float_out(index_t row, int column) const {
    return static_cast<float*>(out) + row * out_stride + column;
  }

  template <int V>
  __device__ __forceinline__ void add_bias(int column, float (&v)[V]) const {
    float b[V];
    if (bias_float) {
      load_floats(static_cast<const float*>(bias) + column, b);
    } else {
      load_floats(static_cast<const T*>(bias) + column, b);
    }
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] += b[j];
  }
};

}  // namespace fusedlm::FUSEDLM_DEVICE
