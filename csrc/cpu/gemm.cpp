// Packed matrix multiply after Goto & van de Geijn (2008) and BLIS (Van Zee & van de Geijn 2015).
// B is packed into panels of kNR columns and A into panels of kMR rows, both [K][panel]; with
// bfloat16 products two neighbours in K share a 32-bit lane. A micro-kernel holds a kMR x kNR tile
// of C in registers over a block of K, then the epilogue (bias, activation, residual) reads it from
// L1. Each element of C is summed in one order that depends on K alone.

#include "cpu/gemm.h"

#include "cpu/activation.h"
#include "cpu/gemm_kernel.h"
#include "cpu/gemm_pack.h"
#include "cpu/switch.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

// A panel of B for one block of K stays in half of a 1 MiB L2: 32 * 3072 * 4 B = 384 KiB.
constexpr index_t kBlockK = 3072;
// What is packed at once, per matrix: a share of the L3 that both cores read.
constexpr index_t kPackedBytes = index_t{8} << 20;
// A task is kTaskPanelsM x kTaskPanelsN tiles: large enough to reuse its A panels from L2, small
// enough that a 1024 x 768 product still gives 30 tasks.
constexpr index_t kTaskPanelsM = 8, kTaskPanelsN = 8;
// Up to so many rows packing B costs more than it saves, and rows of B^T are dotted directly.
constexpr index_t kDotRows = 4;

// Where partial sums over earlier blocks of K are kept; null when there is one block.
struct Partial {
  float* data = nullptr;
  index_t stride = 0;
  bool first = true, last = true;
};

template <class T>
void finish_row(const Gemm& g, const float* tile, index_t m, index_t n0, index_t columns,
                bool bias_float) {
  T* c = static_cast<T*>(g.C) + m * g.c_stride + n0;
  T* pre = g.preactivation ? static_cast<T*>(g.preactivation) + m * g.c_stride + n0 : nullptr;
  const T* residual =
      g.residual ? static_cast<const T*>(g.residual) + m * g.residual_stride + n0 : nullptr;
  const auto body = [&](index_t j, auto... n) {
    Vec v = Vec::load(tile + j);
    if (g.bias) {
      v = v + (bias_float ? Vec::load(static_cast<const float*>(g.bias) + n0 + j, n...)
                          : Vec::load(static_cast<const bfloat16*>(g.bias) + n0 + j, n...));
    }
    if (pre) {
      v.store(pre + j, n...);
      v = Vec::load(pre + j, n...);  // what the backward will see
    }
    v = activate(g.activation, v);
    if (residual) v = v + Vec::load(residual + j, n...);
    if (g.accumulate) v = v + Vec::load(c + j, n...);
    v.store(c + j, n...);
  };
  for_each_vec(columns, body, body);
}

void finish_tile(const Gemm& g, const Partial& partial, float* tile, index_t m0, index_t rows,
                 index_t n0, index_t columns) {
  for (index_t i = 0; i < rows; ++i) {
    float* sums = tile + i * kNR;
    if (partial.data) {
      float* kept = partial.data + (m0 + i) * partial.stride + n0;
      const auto add = [&](index_t j, auto... n) {
        Vec v = Vec::load(sums + j);
        if (!partial.first) v = v + Vec::load(kept + j, n...);
        if (partial.last) {
          v.store(sums + j);
        } else {
          v.store(kept + j, n...);
        }
      };
      for_each_vec(columns, add, add);
      if (!partial.last) continue;
    }
    const bool bias_float = g.bias_dtype == DType::float32;
    if (g.c_dtype == DType::float32) {
      finish_row<float>(g, sums, m0 + i, n0, columns, bias_float);
    } else {
      finish_row<bfloat16>(g, sums, m0 + i, n0, columns, bias_float);
    }
  }
}

// Few rows: each element of C is a dot product along K, read straight from B^T (K contiguous).
void multiply_few_rows(const Gemm& g) {
  constexpr index_t kColumns = 64;
  parallel_for(ceil_div(g.N, kColumns), [&](index_t task, int) {
    const index_t n0 = task * kColumns, columns = min_of(kColumns, g.N - n0);
    float sums[kColumns + Vec::size];
    for (index_t m = 0; m < g.M; ++m) {
      switch_float(g.A.dtype, [&](auto a_type) {
        switch_float(g.B.dtype, [&](auto b_type) {
          using TA = decltype(a_type);
          using TB = decltype(b_type);
          const TA* a = static_cast<const TA*>(g.A.data) + m * g.A.row_stride;
          for (index_t j = 0; j < columns; ++j) {
            const TB* b = static_cast<const TB*>(g.B.data) + (n0 + j) * g.B.col_stride;
            Vec dot[4];
            index_t k = 0;
            for (; k + 4 * Vec::size <= g.K; k += 4 * Vec::size) {
#pragma GCC unroll 4
              for (int u = 0; u < 4; ++u) {
                dot[u] =
                    fma(Vec::load(a + k + u * Vec::size), Vec::load(b + k + u * Vec::size), dot[u]);
              }
            }
            for (; k + Vec::size <= g.K; k += Vec::size) {
              dot[0] = fma(Vec::load(a + k), Vec::load(b + k), dot[0]);
            }
            if (k < g.K) dot[1] = fma(Vec::load(a + k, g.K - k), Vec::load(b + k, g.K - k), dot[1]);
            sums[j] = reduce_sum((dot[0] + dot[1]) + (dot[2] + dot[3]));
          }
        });
      });
      const bool bias_float = g.bias_dtype == DType::float32;
      if (g.c_dtype == DType::float32) {
        finish_row<float>(g, sums, m, n0, columns, bias_float);
      } else {
        finish_row<bfloat16>(g, sums, m, n0, columns, bias_float);
      }
    }
  });
}

}  // namespace

void gemm(const Gemm& g, Context& ctx) {
  if (g.M == 0 || g.N == 0) return;
  if (g.M <= kDotRows && g.A.col_stride == 1 && g.B.row_stride == 1) return multiply_few_rows(g);
  Workspace::Scope scope(ctx.workspace());
#if defined(FUSEDLM_ISA_AVX512_BF16)
  const bool pairs = g.low_precision;
#else
  const bool pairs = false;
#endif
  const index_t per_lane = pairs ? 2 : 1;
  const index_t blocks_k = max_of(1, ceil_div(g.K, kBlockK));
  const index_t block_k = ceil_div(ceil_div(g.K, blocks_k), 2) * 2;
  const index_t depth = max_of(1, ceil_div(block_k, per_lane));
  // Rows of A and columns of B that are packed at once.
  const index_t panels_n = ceil_div(g.N, kNR), panels_m = ceil_div(g.M, kMR);
  const index_t some_n = min_of(panels_n, max_of(kTaskPanelsN, kPackedBytes / (depth * kNR * 4)));
  const index_t some_m = min_of(panels_m, max_of(kTaskPanelsM, kPackedBytes / (depth * kMR * 4)));
  auto* packed_b = ctx.workspace().take<uint32_t>(some_n * depth * kNR);
  auto* packed_a = ctx.workspace().take<uint32_t>(some_m * depth * kMR);
  Partial partial;
  if (blocks_k > 1) {
    partial.data = ctx.workspace().take<float>(g.M * g.N);
    partial.stride = g.N;
  }
  const Matrix a_by_k = g.A.transposed();
  for (index_t k0 = 0, block = 0; block < blocks_k; ++block, k0 += block_k) {
    const index_t K = max_of(0, min_of(block_k, g.K - k0)), lanes = ceil_div(K, per_lane);
    partial.first = block == 0;
    partial.last = block == blocks_k - 1;
    for (index_t pn = 0; pn < panels_n; pn += some_n) {
      const index_t count_n = min_of(some_n, panels_n - pn);
      parallel_for(count_n, [&](index_t p, int) {
        const index_t n = (pn + p) * kNR;
        pack_panel<kNR>(g.B, pairs, k0, K, n, min_of(kNR, g.N - n), packed_b + p * depth * kNR);
      });
      for (index_t pm = 0; pm < panels_m; pm += some_m) {
        const index_t count_m = min_of(some_m, panels_m - pm);
        parallel_for(count_m, [&](index_t p, int) {
          const index_t m = (pm + p) * kMR;
          pack_panel<kMR>(a_by_k, pairs, k0, K, m, min_of(kMR, g.M - m),
                          packed_a + p * depth * kMR);
        });
        const index_t tasks_m = ceil_div(count_m, kTaskPanelsM),
                      tasks_n = ceil_div(count_n, kTaskPanelsN);
        parallel_for(tasks_m * tasks_n, [&](index_t task, int) {
          alignas(64) float tile[kMR * kNR];
          const index_t m_begin = task % tasks_m * kTaskPanelsM,
                        n_begin = task / tasks_m * kTaskPanelsN;
          const index_t m_end = min_of(count_m, m_begin + kTaskPanelsM);
          const index_t n_end = min_of(count_n, n_begin + kTaskPanelsN);
          for (index_t j = n_begin; j < n_end; ++j) {
            const index_t n = (pn + j) * kNR;
            for (index_t i = m_begin; i < m_end; ++i) {
              const index_t m = (pm + i) * kMR, rows = min_of(kMR, g.M - m);
              kernel_for(rows)(pairs, packed_a + i * depth * kMR, packed_b + j * depth * kNR, lanes,
                               tile);
              finish_tile(g, partial, tile, m, rows, n, min_of(kNR, g.N - n));
            }
          }
        });
      }
    }
  }
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
