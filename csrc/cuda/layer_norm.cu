// Layer norm with the residual add (Ba et al. 2016), as rms_norm.cu does it: a team of threads a
// row. The row is centred by a first mean before its squares are summed, from registers where it
// fits; the centred pass also finds what float32 missed of the mean. Parameter gradients are added
// in two stages, in an order that depends on the shape alone.

#include "cuda/rows.h"
#include "fusedlm/layer_norm.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

// Of a row, in registers of a thread: 1024 elements a warp, 8192 a block.
constexpr int kForwardElements = 32;
// The backward keeps x, dy and the sums of dweight and dbias: 64 registers.
constexpr int kBackwardElements = 16;
// As in rms_norm.cu.
constexpr index_t kPartials = 512;

template <class T, class W>
struct Forward {
  const T *x, *residual;
  const W *weight, *bias;
  T *y, *sum;
  float *mean, *rstd;
  index_t N, x_stride, residual_stride, y_stride, sum_stride;
  int C;
  float eps;
};

template <class Plan, class T, class W>
__global__ void __launch_bounds__(Plan::kBlock) forward_kernel(Forward<T, W> a) {
  constexpr int V = Plan::V;
  const index_t row = Plan::team();
  if (row >= a.N) return;  // only whole warps that share no barrier
  const float size = static_cast<float>(a.C);
  const T* x = a.x + row * a.x_stride;
  float v[Plan::kPacks][V];
  float total = 0.0f;
  Plan::for_packs(a.C, [&](int i, int c) {
    load_floats(x + c, v[i]);
    if (a.residual) {
      float r[V];
      load_floats(a.residual + row * a.residual_stride + c, r);
#pragma unroll
      for (int j = 0; j < V; ++j) v[i][j] = to_float(from_float<T>(v[i][j] + r[j]));
      store_floats(a.sum + row * a.sum_stride + c, v[i]);
    }
#pragma unroll
    for (int j = 0; j < V; ++j) total += v[i][j];
  });
  if (a.residual) x = a.sum + row * a.sum_stride;
  const float rough = Plan::sum(total) / size;
  float moments[2] = {0.0f, 0.0f};  // of the centred row: sum, sum of squares
  Plan::for_packs(a.C, [&](int i, int c) {
    if constexpr (!Plan::kKept) load_floats(x + c, v[i]);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float d = v[i][j] - rough;
      moments[0] += d;
      moments[1] = fmaf(d, d, moments[1]);
    }
  });
  Plan::sum(moments);
  const float off = moments[0] / size, mean = rough + off;
  // Rounding can take a row of equal values below 0; NaN must stay.
  float variance = moments[1] / size - off * off;
  if (variance < 0.0f) variance = 0.0f;
  const float rstd = 1.0f / sqrtf(variance + a.eps);
  if (Plan::member() == 0) {
    a.mean[row] = mean;
    a.rstd[row] = rstd;
  }
  Plan::for_packs(a.C, [&](int i, int c) {
    if constexpr (!Plan::kKept) load_floats(x + c, v[i]);
    float w[V], b[V] = {};
    load_floats(a.weight + c, w);
    if (a.bias) load_floats(a.bias + c, b);
#pragma unroll
    for (int j = 0; j < V; ++j) v[i][j] = fmaf((v[i][j] - mean) * rstd, w[j], b[j]);
    store_floats(a.y + row * a.y_stride + c, v[i]);
  });
}

template <class T, class W>
struct Backward {
  const T *dy, *x, *dsum;
  const W* weight;
  const float *mean, *rstd;
  T* dx;
  float *dweights, *dbiases;  // [teams, C]
  index_t N, teams, dy_stride, x_stride, dsum_stride, dx_stride;
  int C;
};

template <class Plan, class T, class W>
__global__ void __launch_bounds__(Plan::kBlock) backward_kernel(Backward<T, W> a) {
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

void layer_norm_forward(const LayerNormForward& args, Context& ctx) {
  const index_t N = args.x.shape[0], C = args.x.shape[1];
  const bool add = args.residual.defined();
  const bool packed = can_pack(args.x) && can_pack(args.residual) && can_pack(args.weight) &&
                      can_pack(args.bias) && can_pack(args.y) && (!add || can_pack(args.sum));
  switch_float(args.x.dtype, [&](auto t) {
    switch_float(args.weight.dtype, [&](auto w) {
      using T = decltype(t);
      using W = decltype(w);
      const Forward<T, W> a{.x = args.x.as<T>(),
                            .residual = args.residual.as<T>(),
                            .weight = args.weight.as<W>(),
                            .bias = args.bias.as<W>(),
                            .y = args.y.as<T>(),
                            .sum = args.sum.as<T>(),
                            .mean = args.mean.as<float>(),
                            .rstd = args.rstd.as<float>(),
                            .N = N,
                            .x_stride = args.x.strides[0],
                            .residual_stride = args.residual.strides[0],
                            .y_stride = args.y.strides[0],
                            .sum_stride = args.sum.strides[0],
                            .C = static_cast<int>(C),
                            .eps = args.eps};
      with_row_plan<T, kForwardElements>(packed, C, [&](auto plan) {
        using Plan = decltype(plan);
        launch("layer_norm_forward", forward_kernel<Plan, T, W>,
               blocks_of(ceil_of<index_t>(N, Plan::kTeamsPerBlock)), Plan::kBlock, 0, ctx, a);
      });
    });
  });
}

void layer_norm_backward(const LayerNormBackward& args, Context& ctx) {
  const index_t N = args.x.shape[0], C = args.x.shape[1];
  const index_t teams = N < kPartials ? N : kPartials;
  float* dweights = device_scratch<float>(ctx, teams * C);
  float* dbiases = device_scratch<float>(ctx, teams * C);
  const bool packed = can_pack(args.x) && can_pack(args.dy) && can_pack(args.weight) &&
                      can_pack(args.dsum) && can_pack(args.dx);
  switch_float(args.x.dtype, [&](auto t) {
    switch_float(args.weight.dtype, [&](auto w) {
      using T = decltype(t);
      using W = decltype(w);
      const Backward<T, W> a{.dy = args.dy.as<T>(),
                             .x = args.x.as<T>(),
                             .dsum = args.dsum.as<T>(),
                             .weight = args.weight.as<W>(),
                             .mean = args.mean.as<float>(),
                             .rstd = args.rstd.as<float>(),
                             .dx = args.dx.as<T>(),
                             .dweights = dweights,
                             .dbiases = dbiases,
                             .N = N,
                             .teams = teams,
                             .dy_stride = args.dy.strides[0],
                             .x_stride = args.x.strides[0],
                             .dsum_stride = args.dsum.strides[0],
                             .dx_stride = args.dx.strides[0],
                             .C = static_cast<int>(C)};
      with_row_plan<T, kBackwardElements>(packed, C, [&](auto plan) {
        using Plan = decltype(plan);
        launch("layer_norm_backward", backward_kernel<Plan, T, W>,
               blocks_of(ceil_of<index_t>(teams, Plan::kTeamsPerBlock)), Plan::kBlock, 0, ctx, a);
      });
    });
  });
  sum_rows("layer_norm_backward: dweight", dweights, teams, C, args.dweight.as<float>(), ctx);
  sum_rows("layer_norm_backward: dbias", dbiases, teams, C, args.dbias.as<float>(), ctx);
}

}  // namespace fusedlm::FUSEDLM_DEVICE
