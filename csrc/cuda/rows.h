#pragma once
// How the norms and the embedding go over rows: a team of threads works on a row of C elements, each thread on packs of V
// elements that lie kTeam packs apart. A team is a warp where the row fits its registers, else a
// block. Rows too long for a block's registers are read again for each pass, mostly from L2.

#include "cuda/launch.h"
#include "cuda/types.h"
#include "cuda/warp.h"

namespace fusedlm::FUSEDLM_DEVICE {

// Warps in a block that work on rows of their own: enough for full occupancy with few blocks a
// multiprocessor, few enough that a short batch reaches many of them.
constexpr int kWarpsPerBlock = 4;
// Threads that share a long row: at 16 elements a thread, rows of 4096 stay in registers.
constexpr int kBlockTeam = 256;

/// How a kernel goes over rows: V elements a pack, kTeam threads a row, kElements of it in
/// registers of each thread (0: none are kept).
template <int kVector, int kThreads, int kHeld>
struct RowPlan {
  static constexpr int V = kVector, kTeam = kThreads, kElements = kHeld;
  static constexpr bool kKept = kHeld > 0;
  static constexpr int kPacks = kKept ? kHeld / V : 1;
  static constexpr int kBlock = kTeam == kWarp ? kWarp * kWarpsPerBlock : kTeam;
  static constexpr int kTeamsPerBlock = kBlock / kTeam;

  __device__ __forceinline__ static int member() { return threadIdx.x % kTeam; }
  __device__ __forceinline__ static index_t team() {
    return static_cast<index_t>(blockIdx.x) * kTeamsPerBlock + threadIdx.x / kTeam;
  }
  /// fn(i, c) for each pack of this thread: the i-th, which starts at column c.
  template <class Fn>
  __device__ __forceinline__ static void for_packs(int C, Fn&& fn) {
    if constexpr (kKept) {
#pragma unroll
      for (int i = 0; i < kPacks; ++i) {
        const int c = (i * kTeam + member()) * V;
        if (c < C) fn(i, c);
      }
    } else {
      for (int c = member() * V; c < C; c += kTeam * V) fn(0, c);
    }
  }
  template <int K>
  __device__ __forceinline__ static void sum(float (&x)[K]) {
    if constexpr (kTeam == kWarp) {
#pragma unroll
      for (int k = 0; k < K; ++k) x[k] = warp_sum(x[k]);
    } else {
      block_sum(x);
    }
  }
  __device__ __forceinline__ static float sum(float x) {
    float one[1] = {x};
    sum(one);
    return one[0];
  }
};

/// Runs `kernel` with a team for each of `teams` rows.
template <class Plan, class Args>
void launch_teams(const char* name, void (*kernel)(Args), index_t teams, Context& ctx,
                  const Args& args) {
  launch(name, kernel, blocks_of(ceil_of<index_t>(teams, Plan::kTeamsPerBlock)), Plan::kBlock, 0,
         ctx, args);
}

/// fn(plan) with the plan for rows of C elements, at most kElements of which a thread keeps.
template <class T, int kElements, class Fn>
void with_row_plan(bool packed, index_t C, Fn&& fn) {
  const auto choose = [&](auto v) {
    constexpr int V = decltype(v)::value;
    if (C <= kWarp * kElements) {
      fn(RowPlan<V, kWarp, kElements>{});
    } else if (C <= kBlockTeam * kElements) {
      fn(RowPlan<V, kBlockTeam, kElements>{});
    } else {
      fn(RowPlan<V, kBlockTeam, 0>{});
    }
  };
  if (packed && C % kPack<T> == 0) {
    choose(std::integral_constant<int, kPack<T>>{});
  } else {
    choose(std::integral_constant<int, 1>{});
  }
}

}  // namespace fusedlm::FUSEDLM_DEVICE
