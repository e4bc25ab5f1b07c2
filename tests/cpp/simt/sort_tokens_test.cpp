// The sort behind embedding's backward: by row, stably, and tokens that name no row last.

#include "cuda/sort_tokens.h"

#include <algorithm>
#include <numeric>

#include "simt/simt_support.h"

namespace fusedlm::simt {
namespace {

void expect_sorted(std::vector<index_t> tokens, index_t V) {
  Context& ctx = Context::current();
  Workspace::Scope scope(ctx.workspace());
  const auto N = static_cast<index_t>(tokens.size());
  register_buffer("tokens", tokens.data(), tokens.size() * sizeof(index_t), sizeof(index_t));
  const SortedTokens sorted = sort_tokens("sort", tokens.data(), N, V, -1, ctx);
  forget_buffers();
  const auto row = [&](unsigned n) {
    return static_cast<unsigned>(tokens[n] < 0 || tokens[n] >= V ? V : tokens[n]);
  };
  std::vector<unsigned> order(tokens.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](unsigned a, unsigned b) { return row(a) < row(b); });
  ASSERT_NE(sorted.keys, nullptr);
  for (size_t i = 0; i < order.size(); ++i) {
    ASSERT_EQ(sorted.order[i], order[i]) << i;
    ASSERT_EQ(sorted.keys[i], row(order[i])) << i;
  }
}

TEST(SortTokens, OrdersRowsOfAnyVocabularyStably) {
  for (const index_t V : {1, 5, 511, 512, 70000}) {
    SCOPED_TRACE(V);
    std::vector<index_t> tokens(1500);
    for (size_t n = 0; n < tokens.size(); ++n)
      tokens[n] = static_cast<index_t>(n * n * 37) % (V + 2) - 1;
    expect_sorted(tokens, V);
  }
}

// On a GPU nobody looks at the tokens before: of a vocabulary of nothing, each is out of range.
TEST(SortTokens, WithoutAVocabularyEveryTokenIsOutOfRange) { expect_sorted({3, 0, -1, 7}, 0); }

}  // namespace
}  // namespace fusedlm::simt
