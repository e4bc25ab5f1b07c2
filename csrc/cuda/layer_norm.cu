// Layer norm with the residual add (Ba et al. 2016), as rms_norm.cu does it: a team of threads a
// row, read for its moments (moments.h) and for y from registers where it fits. Parameter gradients
// are added in two stages, in an order that depends on the shape alone.

#include "cuda/moments.h"
#include "cuda/norm.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

// Of a warp a row, at least one block on a multiprocessor: left to itself, the compiler spills for one block
// more. Where a block takes a row it does better so (0: not said).
template <class Plan>
constexpr int least_blocks() {
  return Plan::kTeam == kWarp ? 1 : 0;
}

template <class Plan, class T, class W>
__global__ void __launch_bounds__(Plan::kBlock, least_blocks<Plan>())
    forward_kernel(NormForward<T, W> a) {
  constexpr int V = Plan::V;
  const index_t row = Plan::team();
  if (row >= a.N) return;  // only whole warps that share no barrier
  float v[Plan::kPacks][V];
  float total = 0.0f;
  const T* x = load_row<Plan>(a, row, v, [&](const float (&pack)[V]) {
#pragma unroll
    for (int j = 0; j < V; ++j) total += pack[j];
  });
  const Moments m = moments_of<Plan>(x, v, a.C, Plan::sum(total), a.eps);
  if (Plan::member() == 0) {
    a.mean[row] = m.mean;
    a.rstd[row] = m.rstd;
  }
  Plan::for_packs(a.C, [&](int i, int c) {
    if constexpr (!Plan::kKept) load_floats(x + c, v[i]);
    float w[V], b[V] = {};
    load_floats(a.weight + c, w);
    if (a.bias) load_floats(a.bias + c, b);
#pragma unroll
    for (int j = 0; j < V; ++j) v[i][j] = fmaf((v[i][j] - m.mean) * m.rstd, w[j], b[j]);
    store_floats(a.y + row * a.y_stride + c, v[i]);
  });
}

template <class Plan, class T, class W>
__global__ void __launch_bounds__(Plan::kBlock) backward_kernel(NormBackward<T, W> a) {
  constexpr int V = Plan::V;
  const index_t team = Plan::team();
  if (team >= a.teams) return;
  float *dweight = a.dweights + team * a.C, *dbias = a.dbiases + team * a.C;
  float dw[Plan::kPacks][V] = {}, db[Plan::kPacks][V] = {};
  for (index_t row = team; row < a.N; row += a.teams) {
    const T *x = a.x + row * a.x_stride, *dy = a.dy + row * a.dy_stride;
    const float mean = a.mean[row], rstd = a.rstd[row];
    float xhat[Plan::kPacks][V], g[Plan::kPacks][V];
    const auto load = [&](int i, int c) {
      load_floats(x + c, xhat[i]);
      load_floats(dy + c, g[i]);
#pragma unroll
      for (int j = 0; j < V; ++j) xhat[i][j] = (xhat[i][j] - mean) * rstd;
    };
    float sums[2] = {0.0f, 0.0f};  // of g and g * xhat
    Plan::for_packs(a.C, [&](int i, int c) {
      load(i, c);
      // Without registers for the whole row, the sums live where they end.
      if constexpr (!Plan::kKept) {
#pragma unroll
        for (int j = 0; j < V; ++j) {
          dw[i][j] = row == team ? 0.0f : dweight[c + j];
          db[i][j] = row == team ? 0.0f : dbias[c + j];
        }
      }
      float w[V];
      load_floats(a.weight + c, w);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        dw[i][j] = fmaf(g[i][j], xhat[i][j], dw[i][j]);
        db[i][j] += g[i][j];
        g[i][j] *= w[j];
        sums[0] += g[i][j];
        sums[1] = fmaf(g[i][j], xhat[i][j], sums[1]);
      }
      if constexpr (!Plan::kKept) {
        store_floats(dweight + c, dw[i]);
        store_floats(dbias + c, db[i]);
      }
    });
    Plan::sum(sums);
    const float mean_g = sums[0] / static_cast<float>(a.C);
    const float mean_gx = sums[1] / static_cast<float>(a.C);
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
      for (int j = 0; j < V; ++j) {
        g[i][j] = (g[i][j] - mean_g - xhat[i][j] * mean_gx) * rstd + extra[j];
      }
      store_floats(a.dx + row * a.dx_stride + c, g[i]);
    });
  }
  if constexpr (Plan::kKept) {
    Plan::for_packs(a.C, [&](int i, int c) {
      store_floats(dweight + c, dw[i]);
      store_floats(dbias + c, db[i]);
    });
  }
}

}  // namespace

void layer_norm_forward(const LayerNormForward& a, Context& ctx) {
  launch_norm_forward(
      "layer_norm_forward", a,
      [](auto plan, auto t, auto w) {
        return forward_kernel<decltype(plan), decltype(t), decltype(w)>;
      },
      ctx);
}

void layer_norm_backward(const LayerNormBackward& a, Context& ctx) {
  launch_norm_backward(
      "layer_norm_backward", a,
      [](auto plan, auto t, auto w) {
        return backward_kernel<decltype(plan), decltype(t), decltype(w)>;
      },
      ctx);
}

}  // namespace fusedlm::FUSEDLM_DEVICE
