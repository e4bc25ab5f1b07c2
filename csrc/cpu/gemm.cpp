// Packed matrix multiply after Goto & van de Geijn (2008) and BLIS (Van Zee & van de Geijn 2015).
// B is packed once, for all threads, into panels of kNR columns. A task is a block of rows of A
// against a stretch of panels: it packs its rows into panels of kMR, which stay in its core's L2,
// and holds a kMR x kNR tile of C in registers over a block of K. Full tiles go straight to C;
// where the epilogue is more than a bias (activation, residual, kept preactivation) it reads the
// tile from L1. With bfloat16 products two neighbours in K share a 32-bit lane. Each element of C
// is summed in one order that depends on K alone.

#include "cpu/gemm.h"

#include "cpu/activation.h"
#include "cpu/gemm_kernel.h"
#include "cpu/gemm_pack.h"
#include "cpu/switch.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

// Lanes of K in a block: a panel of B (1536 * 32 * 4 B = 192 KiB) leaves most of a 1 MiB L2 to A.
constexpr index_t kBlockLanes = 1536;
// What is packed of B at once: a share of the L3 that all cores read.
constexpr index_t kPackedBytes = index_t{8} << 20;
// Rows of A in a task: a part of L2 that leaves room for the stream of B, and rows enough that the
// stream costs little.
constexpr index_t kTaskBytes = index_t{384} << 10, kTaskPanels = 16;
// Blocks of rows for each thread, at least, while a block keeps enough rows to be worth a stream of B.
constexpr index_t kBlocksPerThread = 4, kLeastPanels = 4;
// The last blocks of rows, so many for each thread, are dealt in pieces, so many for each thread,
// so that all finish together; the blocks before are packed once and see all of B.
constexpr index_t kSplitBlocks = 2, kPieces = 8;
// Up to so many rows packing B costs more than it saves, and rows of B^T are dotted directly.
constexpr index_t kDotRows = 4;

// Panels of B that a task packs together: a stretch of a row of B that fills its cache lines.
constexpr index_t kPackTogether = 4;

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
    if (residual) v = v + Vec::load(residual + j, n...);
    if (g.accumulate) v = v + Vec::load(c + j, n...);
    v.store(c + j, n...);
  };
  for_each_vec(columns, body, body);
}

// Rows of finished sums, `stride` apart, on their way to C.
void finish_rows(const Gemm& g, const float* sums, index_t stride, index_t m0, index_t rows,
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

void finish_tile(const Gemm& g, const Partial& partial, float* tile, index_t m0, index_t rows,
                 index_t n0, index_t columns) {
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
      finish_rows(g, sums, 0, m, 1, n0, columns);
    }
  });
}

// How one call is cut up.
struct Cut {
  bool pairs;
  index_t depth;                     // lanes of a full block of K
  index_t first_n, count_n;          // panels of B that are packed now
  index_t row_blocks, whole_blocks;  // of those, the first see all of B in one task
  index_t pieces;                    // of B for each of the others
};

// The way out of full tiles, or Finish::tile.
Finish finish_of(const Gemm& g, const Partial& partial) {
  if (partial.data) {
    if (partial.first) return Finish::store_float;
    return partial.in_place || !partial.last ? Finish::add_float : Finish::tile;
  }
  if (g.activation != Activation::none || g.residual || g.preactivation) return Finish::tile;
  if (g.bias && g.bias_dtype != DType::float32) return Finish::tile;
  if (g.accumulate) return Finish::add_float;
  return g.c_dtype == DType::float32 ? Finish::store_float : Finish::store_bfloat16;
}

// Rows [m_begin, m_end) panels of packed A against panels [n_begin, n_end) of packed B.
void multiply_block(const Gemm& g, const Cut& cut, const Partial& partial, index_t lanes,
                    const uint32_t* packed_a, const uint32_t* packed_b, index_t m_begin,
                    index_t m_end, index_t n_begin, index_t n_end) {
  alignas(64) float tile[kMR * kNR];
  const Finish finish = finish_of(g, partial);
  const bool to_buffer = partial.data && !partial.in_place;
  for (index_t j = n_begin; j < n_end; ++j) {
    const index_t n = (cut.first_n + j) * kNR, columns = min_of(kNR, g.N - n);
    const uint32_t* b = packed_b + j * cut.depth * kNR;
    for (index_t i = m_begin; i < m_end; ++i) {
      const index_t m = i * kMR, rows = min_of(kMR, g.M - m);
      const uint32_t* a = packed_a + (i - m_begin) * cut.depth * kMR;
      if (finish == Finish::tile || columns < kNR) {
        kernel_for(cut.pairs, rows)(a, b, lanes, Finish::tile, tile, kNR, nullptr);
        finish_tile(g, partial, tile, m, rows, n, columns);
        continue;
      }
      void* out = static_cast<char*>(g.C) + (m * g.c_stride + n) * size_of(g.c_dtype);
      if (to_buffer) out = partial.data + m * partial.stride + n;
      const float* bias = g.bias && !partial.data ? static_cast<const float*>(g.bias) + n : nullptr;
      kernel_for(cut.pairs, rows)(a, b, lanes, finish, out, to_buffer ? partial.stride : g.c_stride,
                                  bias);
    }
  }
}

}  // namespace

void gemm(const Gemm& g, Context& ctx) {
  if (g.M == 0 || g.N == 0) return;
  if (g.M <= kDotRows && g.A.col_stride == 1 && g.B.row_stride == 1) return multiply_few_rows(g);
  Workspace::Scope scope(ctx.workspace());
  Cut cut{};
#if defined(FUSEDLM_ISA_AVX512_BF16)
  cut.pairs = g.low_precision;
#endif
  const index_t per_lane = cut.pairs ? 2 : 1, threads = num_threads();
  const index_t blocks_k = max_of(1, ceil_div(ceil_div(g.K, per_lane), kBlockLanes));
  const index_t block_k = ceil_div(ceil_div(g.K, blocks_k), 2) * 2;
  cut.depth = max_of(1, ceil_div(block_k, per_lane));
  const index_t panels_n = ceil_div(g.N, kNR), panels_m = ceil_div(g.M, kMR);
  const index_t some_n = min_of(panels_n, max_of(8, kPackedBytes / (cut.depth * kNR * 4)));
  const index_t fitting = min_of(kTaskPanels, kTaskBytes / (cut.depth * kMR * 4));
  const index_t fair = ceil_div(panels_m, kBlocksPerThread * threads);
  const index_t task_m = max_of(1, min_of(fitting, max_of(kLeastPanels, fair)));
  cut.row_blocks = ceil_div(panels_m, task_m);
  cut.whole_blocks = max_of(0, cut.row_blocks - kSplitBlocks * threads);
  const index_t split_blocks = cut.row_blocks - cut.whole_blocks;
  cut.pieces = min_of(some_n, ceil_div(kPieces * threads, split_blocks));
  const index_t block_lanes = ceil_div(panels_m, cut.row_blocks) * cut.depth * kMR;
  auto* packed_b = ctx.workspace().take<uint32_t>(some_n * cut.depth * kNR);
  auto* packed_a = ctx.workspace().take<uint32_t>(threads * block_lanes);
  Partial partial;
  if (blocks_k > 1) {
    partial.in_place = g.c_dtype == DType::float32 && g.activation == Activation::none && !g.bias &&
                       !g.residual && !g.preactivation && !g.accumulate;
    partial.data =
        partial.in_place ? static_cast<float*>(g.C) : ctx.workspace().take<float>(g.M * g.N);
    partial.stride = partial.in_place ? g.c_stride : g.N;
  }
  const Matrix a_by_k = g.A.transposed();
  for (index_t k0 = 0, block = 0; block < blocks_k; ++block, k0 += block_k) {
    const index_t K = max_of(0, min_of(block_k, g.K - k0)), lanes = ceil_div(K, per_lane);
    partial.first = block == 0;
    partial.last = block == blocks_k - 1;
    for (cut.first_n = 0; cut.first_n < panels_n; cut.first_n += some_n) {
      cut.count_n = min_of(some_n, panels_n - cut.first_n);
      parallel_for(ceil_div(cut.count_n, kPackTogether), [&](index_t task, int) {
        const index_t p = task * kPackTogether, n = (cut.first_n + p) * kNR;
        pack_panels<kNR>(g.B, cut.pairs, k0, K, n,
                         min_of(min_of(kPackTogether, cut.count_n - p) * kNR, g.N - n),
                         packed_b + p * cut.depth * kNR, cut.depth * kNR);
      });
      const index_t pieces = min_of(cut.pieces, cut.count_n);
      const index_t tasks = cut.whole_blocks + split_blocks * pieces;
      parallel_for(tasks, [&](index_t task, int thread) {
        const bool whole = task < cut.whole_blocks;
        const index_t rest = task - cut.whole_blocks;
        const index_t row = whole ? task : cut.whole_blocks + rest / pieces;
        const index_t n_begin = whole ? 0 : rest % pieces * cut.count_n / pieces;
        const index_t n_end = whole ? cut.count_n : (rest % pieces + 1) * cut.count_n / pieces;
        const index_t m_begin = row * panels_m / cut.row_blocks,
                      m_end = (row + 1) * panels_m / cut.row_blocks;
        uint32_t* a = packed_a + thread * block_lanes;
        const index_t m = m_begin * kMR;
        pack_panels<kMR>(a_by_k, cut.pairs, k0, K, m, min_of(m_end * kMR, g.M) - m, a,
                         cut.depth * kMR);
        multiply_block(g, cut, partial, lanes, a, packed_b, m_begin, m_end, n_begin, n_end);
      });
    }
  }
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
