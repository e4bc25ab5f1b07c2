#include "cpu/gemm_rows.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

// Of a block of rows, in L2 (1 MiB): its packed form and what the products write, beside the stream
// of B. Fewer rows than kLeastRows are not worth a stream.
constexpr index_t kBlockBytes = index_t{900} << 10, kMostRows = 16 * kMR, kLeastRows = 4 * kMR;
// The last blocks are cut into quarters, so that all threads end together.
constexpr index_t kInQuarters = 4;

}  // namespace

RowChain::RowChain(index_t N, std::initializer_list<std::array<index_t, 2>> products,
                   index_t row_bytes, bool low_precision, Context& ctx)
    : ctx_(ctx), N_(N), low_precision_(low_precision), by_blocks_(true) {
  const index_t per_lane = multiplies_pairs(low_precision) ? 2 : 1;
  index_t depth = 0;
  for (const auto& [K, columns] : products) {
    const index_t lanes = ceil_div(K, per_lane);
    const index_t bytes = lanes * ceil_div(columns, kNR) * kNR * index_t{sizeof(uint32_t)};
    by_blocks_ = by_blocks_ && K > 0 && lanes <= kBlockLanes && bytes <= kPackedBytes;
    depth = max_of(depth, lanes);
  }
  const index_t fitting = kBlockBytes / max_of(1, row_bytes + depth * index_t{sizeof(uint32_t)});
  by_blocks_ = by_blocks_ && N > kMR && fitting >= kLeastRows;
  block_rows_ = by_blocks_ ? min_of(kMostRows, fitting) / kMR * kMR : N;
  small_rows_ = ceil_div(block_rows_ / kMR, 4) * kMR;
  whole_ = max_of(0, N / max_of(1, block_rows_) - kInQuarters);
  small_ = ceil_div(N - whole_ * block_rows_, max_of(1, small_rows_));
  if (by_blocks_) {
    lanes_ = block_rows_ * depth;
    packed_ = ctx.workspace().take<uint32_t>(num_threads() * lanes_);
  }
}

PackedB RowChain::pack(const Matrix& B, index_t K, index_t N) {
  if (!by_blocks_) return {};
  PackedB packed{.panels = {.pairs = multiplies_pairs(low_precision_)}, .K = K};
  Panels& p = packed.panels;
  p.depth = p.lanes = ceil_div(K, p.pairs ? 2 : 1);
  auto* to = ctx_.workspace().take<uint32_t>(ceil_div(N, kNR) * kNR * p.depth);
  p.b = to;
  parallel_for(pack_tasks(N), [&](index_t task, int) { pack_b(B, p, 0, K, 0, N, task, to); });
  return packed;
}

void RowChain::multiply(const Gemm& g, const PackedB& b, int thread, bool packed) {
  if (!by_blocks_) return gemm(g, ctx_);
  uint32_t* a = packed_ + thread * lanes_;
  if (!packed) {
    pack_panels<kMR>(g.A.transposed(), b.panels.pairs, 0, b.K, 0, g.M, a, b.panels.depth * kMR);
  }
  multiply_block(g, b.panels, Partial{}, a, 0, ceil_div(g.M, kMR), 0, ceil_div(g.N, kNR));
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
