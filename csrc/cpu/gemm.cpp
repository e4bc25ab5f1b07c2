// Packed matrix multiply after Goto & van de Geijn (2008) and BLIS (Van Zee & van de Geijn 2015).
// B is packed once, for all threads, into panels of kNR columns. A task is a block of rows of A
// against a stretch of panels: it packs its rows into panels of kMR, which stay in its core's L2,
// and holds a kMR x kNR tile of C in registers over a block of K. (Weights are packed by the task that
// multiplies them, and A beforehand: multiply_by_columns.) Full tiles go straight to C;
// where the epilogue is more than a bias (activation, residual, kept preactivation) it reads the
// tile from L1. With bfloat16 products two neighbours in K share a 32-bit lane. Each element of C
// is summed in one order that depends on K alone.

#include "cpu/gemm.h"

#include "cpu/gemm_block.h"
#include "cpu/gemm_weight.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

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

// How K is cut into blocks, and packed panels laid out.
struct BlocksOfK {
  index_t count, size;
  Panels panels;
};

BlocksOfK blocks_of_k(const Gemm& g) {
  BlocksOfK b{.count = 1, .size = 0, .panels = {.pairs = multiplies_pairs(g.low_precision)}};
  const index_t per_lane = b.panels.pairs ? 2 : 1, unit = g.weight ? kWeightUnit : 2;
  b.count = max_of(1, ceil_div(ceil_div(g.K, per_lane), kBlockLanes));
  b.size = ceil_div(ceil_div(g.K, b.count), unit) * unit;
  b.panels.depth = max_of(1, ceil_div(b.size, per_lane));
  return b;
}

// Weights of one block of K are packed where they are used, if there are at most so many rows of A: all of these
// are multiplied by a few panels of B before the panels leave L2, and no core reads what another has packed of B.
constexpr index_t kRowsByColumns = 1024, kTasksByColumns = 8;

bool goes_by_columns(const Gemm& g, const BlocksOfK& b) {
  return g.weight && b.count == 1 && g.M <= kRowsByColumns;
}
// Panels of A that a core keeps in L2.
index_t panels_of_task(const Panels& p) {
  return max_of(1, min_of(kTaskPanels, kTaskBytes / (p.depth * kMR * 4)));
}

void multiply_by_columns(const Gemm& g, Panels panels, Context& ctx) {
  const uint32_t* packed_a = g.packed_a ? g.packed_a : pack_rows(g, ctx);
  const index_t panels_n = ceil_div(g.N, kNR), panels_m = ceil_div(g.M, kMR);
  const index_t threads = num_threads(), panel_a = panels.depth * kMR;
  const index_t together =
      max_of(1, min_of(kPackedTogether / kNR, panels_n / (kTasksByColumns * threads)));
  const index_t block_m = panels_of_task(panels), scratch = weight_scratch(g.K);
  auto* packed_b = ctx.workspace().take<uint32_t>(threads * together * panels.depth * kNR);
  auto* dequantised = ctx.workspace().take<float>(threads * scratch);
  panels.lanes = ceil_div(g.K, panels.pairs ? 2 : 1);
  parallel_for(ceil_div(panels_n, together), [&](index_t task, int thread) {
    Panels some = panels;
    some.first_n = task * together;
    const index_t count = min_of(together, panels_n - some.first_n), n = some.first_n * kNR;
    uint32_t* b = packed_b + thread * together * panels.depth * kNR;
    some.b = b;
    pack_weight(*g.weight, some, 0, g.K, n, min_of(count * kNR, g.N - n), 0, b,
                dequantised + thread * scratch);
    for (index_t i = 0; i < panels_m; i += block_m) {
      multiply_block(g, some, Partial{}, packed_a + i * panel_a, i, min_of(panels_m, i + block_m),
                     0, count);
    }
  });
}

// How one call is cut up.
struct Cut {
  index_t count_n;                   // panels of B that are packed now
  index_t row_blocks, whole_blocks;  // of those, the first see all of B in one task
  index_t pieces;                    // of B for each of the others
};

}  // namespace

const uint32_t* pack_rows(const Gemm& g, Context& ctx) {
  const BlocksOfK b = blocks_of_k(g);
  if (!goes_by_columns(g, b)) return nullptr;
  const index_t panels_m = ceil_div(g.M, kMR), panel = b.panels.depth * kMR;
  const index_t together = ceil_div(panels_of_task(b.panels), 4);
  auto* packed = ctx.workspace().take<uint32_t>(panels_m * panel);
  const Matrix by_k = g.A.transposed();
  parallel_for(ceil_div(panels_m, together), [&](index_t task, int) {
    const index_t m = task * together * kMR;
    pack_panels<kMR>(by_k, b.panels.pairs, 0, g.K, m, min_of(together * kMR, g.M - m),
                     packed + task * together * panel, panel);
  });
  return packed;
}

void gemm(const Gemm& g, Context& ctx) {
  if (g.M == 0 || g.N == 0) return;
  if (g.M <= kDotRows && !g.weight && g.A.col_stride == 1 && g.B.row_stride == 1) {
    return multiply_few_rows(g);
  }
  Workspace::Scope scope(ctx.workspace());
  Cut cut{};
  const BlocksOfK blocks = blocks_of_k(g);
  if (goes_by_columns(g, blocks)) return multiply_by_columns(g, blocks.panels, ctx);
  Panels panels = blocks.panels;
  const index_t per_lane = panels.pairs ? 2 : 1, threads = num_threads();
  const index_t blocks_k = blocks.count, block_k = blocks.size;
  const index_t scratch = g.weight ? weight_scratch(block_k) : 0;  // floats of a thread
  const index_t panels_n = ceil_div(g.N, kNR), panels_m = ceil_div(g.M, kMR);
  const index_t some_n = min_of(panels_n, max_of(8, kPackedBytes / (panels.depth * kNR * 4)));
  const index_t fitting = min_of(kTaskPanels, kTaskBytes / (panels.depth * kMR * 4));
  const index_t fair = ceil_div(panels_m, kBlocksPerThread * threads);
  const index_t task_m = max_of(1, min_of(fitting, max_of(kLeastPanels, fair)));
  cut.row_blocks = ceil_div(panels_m, task_m);
  cut.whole_blocks = max_of(0, cut.row_blocks - kSplitBlocks * threads);
  const index_t split_blocks = cut.row_blocks - cut.whole_blocks;
  cut.pieces = min_of(some_n, ceil_div(kPieces * threads, split_blocks));
  const index_t block_lanes = ceil_div(panels_m, cut.row_blocks) * panels.depth * kMR;
  auto* packed_b = ctx.workspace().take<uint32_t>(some_n * panels.depth * kNR);
  auto* packed_a = ctx.workspace().take<uint32_t>(threads * block_lanes);
  auto* shared_a = ctx.workspace().take<uint32_t>(split_blocks * block_lanes);
  auto* dequantised = ctx.workspace().take<float>(threads * scratch);
  Partial partial;
  if (blocks_k > 1) {
    partial.in_place = g.c_dtype == DType::float32 && g.activation == Activation::none && !g.bias &&
                       !g.factor && !g.residual && !g.preactivation && !g.accumulate;
    partial.data =
        partial.in_place ? static_cast<float*>(g.C) : ctx.workspace().take<float>(g.M * g.N);
    partial.stride = partial.in_place ? g.c_stride : g.N;
  }
  panels.b = packed_b;
  const Matrix a_by_k = g.A.transposed();
  for (index_t k0 = 0, block = 0; block < blocks_k; ++block, k0 += block_k) {
    const index_t K = max_of(0, min_of(block_k, g.K - k0));
    panels.lanes = ceil_div(K, per_lane);
    partial.first = block == 0;
    partial.last = block == blocks_k - 1;
    for (panels.first_n = 0; panels.first_n < panels_n; panels.first_n += some_n) {
      cut.count_n = min_of(some_n, panels_n - panels.first_n);
      const auto first_panel = [&](index_t row) { return row * panels_m / cut.row_blocks; };
      const auto pack_a = [&](index_t row, uint32_t* to) {
        const index_t m = first_panel(row) * kMR;
        pack_panels<kMR>(a_by_k, panels.pairs, k0, K, m,
                         min_of(first_panel(row + 1) * kMR, g.M) - m, to, panels.depth * kMR);
      };
      // Blocks of rows that are dealt in pieces are packed here for all of them, once for a block of K.
      const index_t shared = panels.first_n == 0 ? split_blocks : 0;
      const index_t n = panels.first_n * kNR, columns = min_of(cut.count_n * kNR, g.N - n);
      parallel_for(shared + pack_tasks(columns), [&](index_t task, int thread) {
        if (task < shared) return pack_a(cut.whole_blocks + task, shared_a + task * block_lanes);
        if (g.weight) {
          return pack_weight(*g.weight, panels, k0, K, n, columns, task - shared, packed_b,
                             dequantised + thread * scratch);
        }
        pack_b(g.B, panels, k0, K, n, columns, task - shared, packed_b);
      });
      const index_t pieces = min_of(cut.pieces, cut.count_n);
      const index_t tasks = cut.whole_blocks + split_blocks * pieces;
      parallel_for(tasks, [&](index_t task, int thread) {
        const bool whole = task < cut.whole_blocks;
        const index_t rest = task - cut.whole_blocks;
        const index_t row = whole ? task : cut.whole_blocks + rest / pieces;
        const index_t n_begin = whole ? 0 : rest % pieces * cut.count_n / pieces;
        const index_t n_end = whole ? cut.count_n : (rest % pieces + 1) * cut.count_n / pieces;
        uint32_t* a = whole ? packed_a + thread * block_lanes
                            : shared_a + (row - cut.whole_blocks) * block_lanes;
        if (whole) pack_a(row, a);
        multiply_block(g, panels, partial, a, first_panel(row), first_panel(row + 1), n_begin,
                       n_end);
      });
    }
  }
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
