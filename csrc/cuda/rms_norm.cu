// RMSNorm with the residual add (Zhang & Sennrich 2019), a team of threads a row (cuda/rows.h): the
// sum of squares while the row comes into registers, then the scaled row from there. In the
// backward a team takes every P-th row and adds up dweight for its columns, in registers where the
// row fits; a second kernel adds the P sums in order. P depends on the shape alone, so the bits are
// the same in every run.

#include "cuda/norm.h"
#include "fusedlm/rms_norm.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

template <class Plan, class T, class W>
__global__ void __launch_bounds__(Plan::kBlock) forward_kernel(NormForward<T, W> a) {
  constexpr int V = Plan::V;
  const index_t row = Plan::team();
  if (row >= a.N) return;  // only whole warps that share no barrier
  float v[Plan::kPacks][V];
  float squares = 0.0f;
  const T* x = load_row<Plan>(a, row, v, [&](const float (&pack)[V]) {
#pragma unroll
    for (int j = 0; j < V; ++j) squares = fmaf(pack[j], pack[j], squares);
  });
  const float rstd = 1.0f / sqrtf(Plan::sum(squares) / static_cast<float>(a.C) + a.eps);
  if (Plan::member() == 0) a.rstd[row] = rstd;
  Plan::for_packs(a.C, [&](int i, int c) {
    if constexpr (!Plan::kKept) load_floats(x + c, v[i]);
    float w[V];
    load_floats(a.weight + c, w);
#pragma unroll
    for (int j = 0; j < V; ++j) v[i][j] = v[i][j] * rstd * w[j];
    store_floats(a.y + row * a.y_stride + c, v[i]);
  });
}

template <class Plan, class T, class W>
__global__ void __launch_bounds__(Plan::kBlock) backward_kernel(NormBackward<T, W> a) {
  constexpr int V = Plan::V;
  const index_t team = Plan::team();
  if (team >= a.teams) return;
  float* dweight = a.dweights + team * a.C;
  float dw[Plan::kPacks][V] = {};
  for (index_t row = team; row < a.N; row += a.teams) {
    const T *x = a.x + row * a.x_stride, *dy = a.dy + row * a.dy_stride;
    const float rstd = a.rstd[row];
    float xhat[Plan::kPacks][V], g[Plan::kPacks][V];
    const auto load = [&](int i, int c) {
      load_floats(x + c, xhat[i]);
      load_floats(dy + c, g[i]);
#pragma unroll
      for (int j = 0; j < V; ++j) xhat[i][j] *= rstd;
    };
    float dot = 0.0f;
    Plan::for_packs(a.C, [&](int i, int c) {
      load(i, c);
      // Without registers for the whole row, the sums live where they end.
      if constexpr (!Plan::kKept) {
#pragma unroll
        for (int j = 0; j < V; ++j) dw[i][j] = row == team ? 0.0f : dweight[c + j];
      }
      float w[V];
      load_floats(a.weight + c, w);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        dw[i][j] = fmaf(g[i][j], xhat[i][j], dw[i][j]);
        g[i][j] *= w[j];
        dot = fmaf(g[i][j], xhat[i][j], dot);
      }
      if constexpr (!Plan::kKept) store_floats(dweight + c, dw[i]);
    });
    const float mean = Plan::sum(dot) / static_cast<float>(a.C);
    Plan::for_packs(a.C, [&](int i, int c) {
      if constexpr (!Plan::kKept) {
        load(i, c);
        float w[V];
        load_floats(a.weight + c, w);
#pragma unroll
        for (int j = 0; j < V; ++j) g[i][j] *= w[j];
      }
      float extra[V] = {};
      if (a.dsum) load_floats(a.dsum + row * a.dsum_stride + c, extra);
#pragma unroll
      for (int j = 0; j < V; ++j) g[i][j] = (g[i][j] - xhat[i][j] * mean) * rstd + extra[j];
      store_floats(a.dx + row * a.dx_stride + c, g[i]);
    });
  }
  if constexpr (Plan::kKept) {
    Plan::for_packs(a.C, [&](int i, int c) { store_floats(dweight + c, dw[i]); });
  }
}

}  // namespace

void rms_norm_forward(const RmsNormForward& a, Context& ctx) {
  launch_norm_forward(
      "rms_norm_forward",
      {.x = a.x,
       .residual = a.residual,
       .weight = a.weight,
       .bias = {},
       .y = a.y,
       .sum = a.sum,
       .mean = {},
       .rstd = a.rstd,
       .eps = a.eps},
      [](auto plan, auto t, auto w) {
        return forward_kernel<decltype(plan), decltype(t), decltype(w)>;
      },
      ctx);
}

void rms_norm_backward(const RmsNormBackward& a, Context& ctx) {
  launch_norm_backward(
      "rms_norm_backward",
      {.dy = a.dy,
       .x = a.x,
       .weight = a.weight,
       .mean = {},
       .rstd = a.rstd,
       .dsum = a.dsum,
       .dx = a.dx,
       .dweight = a.dweight,
       .dbias = {}},
      [](auto plan, auto t, auto w) {
        return backward_kernel<decltype(plan), decltype(t), decltype(w)>;
      },
      ctx);
}

}  // namespace fusedlm::FUSEDLM_DEVICE
