// Group norm (Wu & He 2018). Forward: a team of threads takes a group of a sample, which is one row of
// D channels of S elements (cuda/rows.h, moments.h). Backward: a team takes its group in every P-th
// sample. It first adds up dy * xhat and dy of each channel, a warp a channel where S is long and a
// thread a channel where it is not, and with them the sums over the group; then it writes dx. A second
// kernel adds the P sums of each channel in order. P depends on the shape alone, so the bits are the
// same in every run.

#include <algorithm>

#include "cuda/moments.h"
#include "cuda/sum_rows.h"
#include "fusedlm/group_norm.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

/// The parameters of V neighbouring elements of a group, from its c-th on; `none` where there are none.
template <int V, class W>
__device__ __forceinline__ void load_parameters(const W* of_group, int c, int S, float none,
                                                float (&p)[V]) {
  int channel = c / S, rest = c - channel * S;
#pragma unroll
  for (int j = 0; j < V; ++j) {
    p[j] = of_group ? to_float(of_group[channel]) : none;
    if (++rest == S) rest = 0, ++channel;
  }
}

template <class T, class W>
struct Forward {
  const T* x;
  const W *weight, *bias;
  T* y;
  float *mean, *rstd;
  int rows, groups, D, S;
  float eps;
};

template <class Plan, class T, class W>
__global__ void __launch_bounds__(Plan::kBlock) forward_kernel(Forward<T, W> a) {
  constexpr int V = Plan::V;
  const int row = static_cast<int>(Plan::team());
  if (row >= a.rows) return;  // only whole warps that share no barrier
  const int C = a.D * a.S;
  const T* x = a.x + index_t{row} * C;
  float v[Plan::kPacks][V];
  float total = 0.0f;
  Plan::for_packs(C, [&](int i, int c) {
    load_floats(x + c, v[i]);
#pragma unroll
    for (int j = 0; j < V; ++j) total += v[i][j];
  });
  const Moments m = moments_of<Plan>(x, v, C, Plan::sum(total), a.eps);
  if (Plan::member() == 0) {
    a.mean[row] = m.mean;
    a.rstd[row] = m.rstd;
  }
  const int first = row % a.groups * a.D;
  const W* weight = a.weight ? a.weight + first : nullptr;
  const W* bias = a.bias ? a.bias + first : nullptr;
  Plan::for_packs(C, [&](int i, int c) {
    if constexpr (!Plan::kKept) load_floats(x + c, v[i]);
    float w[V], b[V];
    load_parameters(weight, c, a.S, 1.0f, w);
    load_parameters(bias, c, a.S, 0.0f, b);
#pragma unroll
    for (int j = 0; j < V; ++j) v[i][j] = fmaf((v[i][j] - m.mean) * m.rstd, w[j], b[j]);
    store_floats(a.y + index_t{row} * C + c, v[i]);
  });
}

template <class T, class W>
struct Backward {
  const T *dy, *x;
  const W* weight;
  const float *mean, *rstd;
  T* dx;
  float *dweights, *dbiases;  // [partials, groups * D]
  int B, partials, groups, D, S;
};

// On a multiprocessor at once, at least: leaves 48 registers a thread. Left to itself, the compiler spills
// a few bytes for one more block.
constexpr int kThreads = 1280;

/// kLanes threads take a channel: a warp, or 1.
template <class Plan, int kLanes, class T, class W>
__global__ void __launch_bounds__(Plan::kBlock, kThreads / Plan::kBlock)
    backward_kernel(Backward<T, W> a) {
  constexpr int V = Plan::V, kChannels = Plan::kTeam / kLanes;
  const int team = static_cast<int>(Plan::team());
  if (team >= a.partials * a.groups) return;
  const int partial = team / a.groups, group = team % a.groups, C = a.D * a.S;
  const float share = 1.0f / static_cast<float>(C);
  const W* weight = a.weight ? a.weight + group * a.D : nullptr;
  const int channel = Plan::member() / kLanes, lane = Plan::member() % kLanes;
  for (int b = partial; b < a.B; b += a.partials) {
    const int row = b * a.groups + group;
    const index_t start = index_t{row} * C;
    const T *x = a.x + start, *dy = a.dy + start;
    const float mean = a.mean[row], rstd = a.rstd[row];
    float sums[2] = {0.0f, 0.0f};  // of g and g * xhat
    for (int d = channel; d < a.D; d += kChannels) {
      float of_bias = 0.0f, of_weight = 0.0f;
      for (int s = lane * V; s < a.S; s += kLanes * V) {
        float u[V], arrived[V];
        load_floats(x + d * a.S + s, u);
        load_floats(dy + d * a.S + s, arrived);
#pragma unroll
        for (int j = 0; j < V; ++j) {
          of_bias += arrived[j];
          of_weight = fmaf(arrived[j], (u[j] - mean) * rstd, of_weight);
        }
      }
      if constexpr (kLanes > 1) {
        of_bias = warp_sum(of_bias);
        of_weight = warp_sum(of_weight);
      }
      if (lane > 0) continue;
      const float w = weight ? to_float(weight[d]) : 1.0f;
      sums[0] = fmaf(w, of_bias, sums[0]);
      sums[1] = fmaf(w, of_weight, sums[1]);
      const index_t at = index_t{team} * a.D + d;
      a.dbiases[at] = of_bias + (b == partial ? 0.0f : a.dbiases[at]);
      a.dweights[at] = of_weight + (b == partial ? 0.0f : a.dweights[at]);
    }
    Plan::sum(sums);
    const float mean_g = sums[0] * share, mean_gx = sums[1] * share;
    Plan::for_packs(C, [&](int, int c) {
      float u[V], g[V];
      load_floats(x + c, u);
      load_floats(dy + c, g);
      const float w = weight ? to_float(weight[c / a.S]) : 1.0f;  // packs lie within channels
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const float xhat = (u[j] - mean) * rstd;
        g[j] = (g[j] * w - mean_g - xhat * mean_gx) * rstd;
      }
      store_floats(a.dx + start + c, g);
    });
  }
}

/// Whether packs fit, as far as the address goes: nothing lies between the rows, so the rest is their size.
bool aligned(TensorView view) {
  view.ndim = 1;
  return can_pack(view);
}

/// Groups of all samples, and the elements of each: the kernels count both with an int.
struct Rows {
  index_t count, size;
  Rows(const TensorView& x, index_t groups)
      : count(x.shape[0] * groups), size(x.shape[1] / groups * x.shape[2]) {
    if (std::max(count, size) > 1 << 30) {
      throw Unsupported("group_norm: " + std::to_string(count) + " groups of " +
                        std::to_string(size) +
                        " elements on CUDA, expected 2^30 of either at most");
    }
  }
};

}  // namespace

void group_norm_forward(const GroupNormForward& args, Context& ctx) {
  // Of a row, in registers of a thread: as layer norm.
  constexpr int kElements = 32;
  const Rows rows(args.x, args.groups);
  const bool packed = aligned(args.x) && aligned(args.y);
  const DType beside = args.weight.defined() ? args.weight.dtype
                       : args.bias.defined() ? args.bias.dtype
                                             : DType::float32;
  switch_floats(args.x.dtype, beside, [&](auto t, auto w) {
    using T = decltype(t);
    using W = decltype(w);
    const Forward<T, W> a{.x = args.x.as<T>(),
                          .weight = args.weight.as<W>(),
                          .bias = args.bias.as<W>(),
                          .y = args.y.as<T>(),
                          .mean = args.mean.as<float>(),
                          .rstd = args.rstd.as<float>(),
                          .rows = static_cast<int>(rows.count),
                          .groups = static_cast<int>(args.groups),
                          .D = static_cast<int>(args.x.shape[1] / args.groups),
                          .S = static_cast<int>(args.x.shape[2]),
                          .eps = args.eps};
    with_row_plan<T, kElements>(packed, rows.size, [&](auto plan) {
      using Plan = decltype(plan);
      launch_teams<Plan>("group_norm_forward", forward_kernel<Plan, T, W>, rows.count, ctx, a);
    });
  });
}

void group_norm_backward(const GroupNormBackward& args, Context& ctx) {
  // Teams that fill the largest GPUs (8 blocks of 256 threads on 160 multiprocessors), so that their
  // sums stay few beside x and dy.
  constexpr index_t kTeams = 1280;
  const index_t B = args.x.shape[0], C = args.x.shape[1], S = args.x.shape[2];
  const index_t groups = args.groups, size = Rows(args.x, groups).size;
  const index_t wanted = ceil_of<index_t>(kTeams, groups), partials = B < wanted ? B : wanted;
  const index_t teams = partials * groups;
  float* dweights = device_scratch<float>(ctx, partials * C);
  float* dbiases = device_scratch<float>(ctx, partials * C);
  switch_floats(args.x.dtype, args.weight.dtype, [&](auto t, auto w) {
    using T = decltype(t);
    using W = decltype(w);
    const Backward<T, W> a{.dy = args.dy.as<T>(),
                           .x = args.x.as<T>(),
                           .weight = args.weight.as<W>(),
                           .mean = args.mean.as<float>(),
                           .rstd = args.rstd.as<float>(),
                           .dx = args.dx.as<T>(),
                           .dweights = dweights,
                           .dbiases = dbiases,
                           .B = static_cast<int>(B),
                           .partials = static_cast<int>(partials),
                           .groups = static_cast<int>(groups),
                           .D = static_cast<int>(C / groups),
                           .S = static_cast<int>(S)};
    const auto with = [&](auto plan, auto lanes) {
      using Plan = decltype(plan);
      launch_teams<Plan>("group_norm_backward", backward_kernel<Plan, decltype(lanes)::value, T, W>,
                         teams, ctx, a);
    };
    const auto with_team = [&](auto v, auto lanes) {
      constexpr int V = decltype(v)::value;
      // A warp goes over 1024 elements in as many steps as it keeps in the forward.
      if (size <= 1024) {
        with(RowPlan<V, kWarp, 0>{}, lanes);
      } else {
        with(RowPlan<V, kBlockTeam, 0>{}, lanes);
      }
    };
    using One = std::integral_constant<int, 1>;
    using Warp = std::integral_constant<int, kWarp>;
    if (S < kWarp) {
      with_team(One{}, One{});
    } else if (aligned(args.x) && aligned(args.dy) && aligned(args.dx) && S % kPack<T> == 0) {
      with_team(std::integral_constant<int, kPack<T>>{}, Warp{});
    } else {
      with_team(One{}, Warp{});
    }
  });
  if (args.dweight.defined()) {
    sum_rows("group_norm_backward", dweights, partials, C, args.dweight.as<float>(), ctx);
  }
  if (args.dbias.defined()) {
    sum_rows("group_norm_backward", dbiases, partials, C, args.dbias.as<float>(), ctx);
  }
}

}  // namespace fusedlm::FUSEDLM_DEVICE
