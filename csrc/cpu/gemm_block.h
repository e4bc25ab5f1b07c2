#pragma once
// What one core does with packed panels: a block of rows of A against a stretch of B, tile by tile,
// and the epilogue of a tile.

#include "cpu/activation.h"
#include "cpu/gemm_kernel.h"
#include "cpu/gemm_pack.h"
#include "cpu/switch.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

// Lanes of K in a block: a panel of B (1536 * 32 * 4 B = 192 KiB) leaves most of a 1 MiB L2 to A.
constexpr index_t kBlockLanes = 1536;
// What is packed of B at once: a share of the L3 that all cores read.
constexpr index_t kPackedBytes = index_t{8} << 20;

/// Packed B, or a stretch of it, and how both operands are laid out.
struct Panels {
  bool pairs = false;
  index_t depth = 0;    // lanes from one panel to the next: of a full block of K
  index_t lanes = 0;    // of this block of K
  index_t first_n = 0;  // the panel of C that b starts with
  const uint32_t* b = nullptr;
};

// Columns of B that a task packs together: a stretch of a row of B that fills its cache lines.
constexpr index_t kPackedTogether = 4 * kNR;

inline index_t pack_tasks(index_t columns) { return ceil_div(columns, kPackedTogether); }

/// Task `task` of packing rows [k0, k0 + K) and columns [first, first + columns) of B.
inline void pack_b(const Matrix& B, const Panels& p, index_t k0, index_t K, index_t first,
                   index_t columns, index_t task, uint32_t* packed) {
  const index_t n = task * kPackedTogether;
  pack_panels<kNR>(B, p.pairs, k0, K, first + n, min_of(kPackedTogether, columns - n),
                   packed + n * p.depth, p.depth * kNR);
}

// Where partial sums over earlier blocks of K are kept, C itself if `in_place`; null when there is
// one block.
struct Partial {
  float* data = nullptr;
  index_t stride = 0;
  bool in_place = false;
  bool first = true, last = true;
};

template <class T, Activation kind>
void finish_row(const Gemm& g, const float* tile, index_t m, index_t n0, index_t columns,
                bool bias_float) {
  T* c = static_cast<T*>(g.C) + m * g.c_stride + n0;
  T* pre = g.preactivation ? static_cast<T*>(g.preactivation) + m * g.c_stride + n0 : nullptr;
  const T* factor = g.factor ? static_cast<const T*>(g.factor) + m * g.factor_stride + n0 : nullptr;
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
    v = activate<T, kind>(v);
    if (factor) v = v * Vec::load(factor + j, n...);
    if (residual) v = v + Vec::load(residual + j, n...);
    if (g.accumulate) v = v + Vec::load(c + j, n...);
    v.store(c + j, n...);
  };
  for_each_vec(columns, body, body);
}

// Rows of finished sums, `stride` apart, on their way to C.
inline void finish_rows(const Gemm& g, const float* sums, index_t stride, index_t m0, index_t rows,
                        index_t n0, index_t columns) {
  const bool bias_float = g.bias_dtype == DType::float32;
  switch_float(g.c_dtype, [&](auto type) {
    switch_activation(g.activation, [&](auto kind) {
      for (index_t i = 0; i < rows; ++i) {
        finish_row<decltype(type), kind()>(g, sums + i * stride, m0 + i, n0, columns, bias_float);
      }
    });
  });
}

inline void finish_tile(const Gemm& g, const Partial& partial, float* tile, index_t m0,
                        index_t rows, index_t n0, index_t columns) {
  if (partial.data) {
    for (index_t i = 0; i < rows; ++i) {
      float* sums = tile + i * kNR;
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
    }
    if (!partial.last) return;
  }
  finish_rows(g, tile, kNR, m0, rows, n0, columns);
}

// The way out of full tiles, or Finish::tile.
inline Finish finish_of(const Gemm& g, const Partial& partial) {
  if (partial.data) {
    if (partial.first) return Finish::store_float;
    return partial.in_place || !partial.last ? Finish::add_float : Finish::tile;
  }
  if (g.activation != Activation::none || g.factor || g.residual || g.preactivation) {
    return Finish::tile;
  }
  if (g.bias && g.bias_dtype != DType::float32) return Finish::tile;
  if (g.accumulate) return Finish::add_float;
  return g.c_dtype == DType::float32 ? Finish::store_float : Finish::store_bfloat16;
}

// Rows [m_begin, m_end) panels of packed A against panels [n_begin, n_end) of packed B.
inline void multiply_block(const Gemm& g, const Panels& p, const Partial& partial,
                           const uint32_t* packed_a, index_t m_begin, index_t m_end,
                           index_t n_begin, index_t n_end) {
  alignas(64) float tile[kMR * kNR];
  const Finish finish = finish_of(g, partial);
  const bool to_buffer = partial.data && !partial.in_place;
  for (index_t j = n_begin; j < n_end; ++j) {
    const index_t n = (p.first_n + j) * kNR, columns = min_of(kNR, g.N - n);
    const uint32_t* b = p.b + j * p.depth * kNR;
    for (index_t i = m_begin; i < m_end; ++i) {
      const index_t m = i * kMR, rows = min_of(kMR, g.M - m);
      const uint32_t* a = packed_a + (i - m_begin) * p.depth * kMR;
      if (finish == Finish::tile || columns < kNR) {
        kernel_for(p.pairs, rows)(a, b, p.lanes, Finish::tile, tile, kNR, nullptr);
        finish_tile(g, partial, tile, m, rows, n, columns);
        continue;
      }
      void* out = static_cast<char*>(g.C) + (m * g.c_stride + n) * size_of(g.c_dtype);
      if (to_buffer) out = partial.data + m * partial.stride + n;
      const float* bias = g.bias && !partial.data ? static_cast<const float*>(g.bias) + n : nullptr;
      kernel_for(p.pairs, rows)(a, b, p.lanes, finish, out, to_buffer ? partial.stride : g.c_stride,
                                bias);
    }
  }
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
