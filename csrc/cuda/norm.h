#pragma once
// From the calls of layer norm and RMSNorm to their kernels. RMSNorm is called as a layer norm without
// bias and mean. In the backward a team takes every P-th row and adds up the gradients of the
// parameters for its columns; a second kernel adds the P sums in order. P depends on the shape alone,
// so the bits are the same in every run.

#include "cuda/rows.h"
#include "cuda/sum_rows.h"
#include "fusedlm/layer_norm.h"

namespace fusedlm::FUSEDLM_DEVICE {

template <class T, class W>
struct NormForward {
  const T *x, *residual;
  const W *weight, *bias;
  T *y, *sum;
  float *mean, *rstd;
  index_t N, x_stride, residual_stride, y_stride, sum_stride;
  int C;
  float eps;
};

template <class T, class W>
struct NormBackward {
  const T *dy, *x, *dsum;
  const W* weight;
  const float *mean, *rstd;
  T* dx;
  float *dweights, *dbiases;  // [teams, C]
  index_t N, teams, dy_stride, x_stride, dsum_stride, dx_stride;
  int C;
};

/// Reads a row of x into v, adds the residual if there is one, and stores that sum; each(v[i]) of every
/// pack. Returns where the row that the norm is taken of lies.
template <class Plan, class T, class W, class Each>
__device__ __forceinline__ const T* load_row(const NormForward<T, W>& a, index_t row,
                                             float (&v)[Plan::kPacks][Plan::V], Each&& each) {
  constexpr int V = Plan::V;
  const T* x = a.x + row * a.x_stride;
  Plan::for_packs(a.C, [&](int i, int c) {
    load_floats(x + c, v[i]);
    if (a.residual) {
      float r[V];
      load_floats(a.residual + row * a.residual_stride + c, r);
#pragma unroll
      for (int j = 0; j < V; ++j) v[i][j] = to_float(from_float<T>(v[i][j] + r[j]));
      store_floats(a.sum + row * a.sum_stride + c, v[i]);
    }
    each(v[i]);
  });
  return a.residual ? a.sum + row * a.sum_stride : x;
}

/// `kernel_of(plan, T{}, W{})` is the kernel for rows that are read by this plan.
template <class KernelOf>
void launch_norm_forward(const char* name, const LayerNormForward& args, KernelOf kernel_of,
                         Context& ctx) {
  // Of a row, in registers of a thread: 1024 elements a warp, 8192 a block.
  constexpr int kElements = 32;
  const index_t N = args.x.shape[0], C = args.x.shape[1];
  const bool packed = can_pack(args.x) && can_pack(args.residual) && can_pack(args.weight) &&
                      can_pack(args.bias) && can_pack(args.y) &&
                      (!args.residual.defined() || can_pack(args.sum));
  switch_floats(args.x.dtype, args.weight.dtype, [&](auto t, auto w) {
    using T = decltype(t);
    using W = decltype(w);
    const NormForward<T, W> a{.x = args.x.as<T>(),
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
    with_row_plan<T, kElements>(packed, C, [&](auto plan) {
      launch_teams<decltype(plan)>(name, kernel_of(plan, t, w), N, ctx, a);
    });
  });
}

template <class KernelOf>
void launch_norm_backward(const char* name, const LayerNormBackward& args, KernelOf kernel_of,
                          Context& ctx) {
  // Of a row, in registers of a thread: x, dy and the sums of dweight and dbias are 64 registers.
  constexpr int kElements = 16;
  // Sums that the second kernel adds: rows to go round on the largest GPUs (4 warps of 128 blocks),
  // and still few bytes against x and dy.
  constexpr index_t kPartials = 512;
  const index_t N = args.x.shape[0], C = args.x.shape[1];
  const index_t teams = N < kPartials ? N : kPartials;
  float* dweights = device_scratch<float>(ctx, teams * C);
  float* dbiases = args.dbias.defined() ? device_scratch<float>(ctx, teams * C) : nullptr;
  const bool packed = can_pack(args.x) && can_pack(args.dy) && can_pack(args.weight) &&
                      can_pack(args.dsum) && can_pack(args.dx);
  switch_floats(args.x.dtype, args.weight.dtype, [&](auto t, auto w) {
    using T = decltype(t);
    using W = decltype(w);
    const NormBackward<T, W> a{.dy = args.dy.as<T>(),
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
    with_row_plan<T, kElements>(packed, C, [&](auto plan) {
      launch_teams<decltype(plan)>(name, kernel_of(plan, t, w), teams, ctx, a);
    });
  });
  sum_rows(name, dweights, teams, C, args.dweight.as<float>(), ctx);
  if (args.dbias.defined()) sum_rows(name, dbiases, teams, C, args.dbias.as<float>(), ctx);
}

}  // namespace fusedlm::FUSEDLM_DEVICE
