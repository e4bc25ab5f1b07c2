// Embedding: rows are copied and added, so results are equal and not only close.

#include "fusedlm/embedding.h"

#include "support.h"

namespace fusedlm::test {
namespace {

// Rows that the CUDA kernels read in packs or one by one, with a warp, a block, and a block that goes round.
struct Shape {
  index_t N, V, P, C;
};
constexpr Shape kShapes[] = {{100, 70, 9, 43}, {100, 70, 9, 64}, {9, 7, 3, 1032},
                             {9, 7, 3, 1033},  {3, 2, 3, 8200},  {3, 2, 3, 8201}};

Buffer tokens_below(index_t limit, index_t N) {
  Buffer tokens({N}, DType::int64);
  for (index_t n = 0; n < N; ++n) tokens.set(n, n * n % limit);
  return tokens;
}

TEST(Embedding, ForwardIsTheRowOfTheTokenPlusThatOfThePosition) {
  for (const auto& [N, V, P, C] : kShapes) {
    SCOPED_TRACE(C);
    const Buffer tokens = tokens_below(V, N), positions = tokens_below(P, N);
    for (const auto& [weight_type, out_type] : kTypePairs) {
      const Buffer weight = random({V, C}, 0, weight_type),
                   position_weight = random({P, C}, 1, weight_type);
      on_every_isa_for(weight_type, out_type, [&] {
        const Buffer out({N, C}, out_type);
        embedding_forward({.tokens = tokens.view(),
                           .weight = weight.view(),
                           .positions = positions.view(),
                           .position_weight = position_weight.view(),
                           .out = out.view()},
                          Context::current());
        for (index_t i = 0; i < N * C; ++i) {
          const auto token = static_cast<index_t>(tokens[i / C]),
                     position = static_cast<index_t>(positions[i / C]);
          const auto sum =
              static_cast<float>(weight[token * C + i % C] + position_weight[position * C + i % C]);
          ASSERT_EQ(out[i], rounded(sum, out_type)) << i;
        }
      });
    }
  }
}

// Float32 addition in order of n, without the row of padding_idx.
Buffer reference_dweight(const Shape& shape, const Buffer& dout, const Buffer& tokens,
                         index_t padding_idx) {
  const auto& [N, V, P, C] = shape;
  Buffer dweight({V, C}, DType::float32, std::vector<double>(V * C));
  for (index_t n = 0; n < N; ++n) {
    const auto row = static_cast<index_t>(tokens[n]) * C;
    for (index_t c = 0; c < C && row != padding_idx * C; ++c)
      dweight.set(row + c, dweight[row + c] + dout[n * C + c]);
  }
  return dweight;
}

TEST(Embedding, BackwardAddsInOrderAndLeavesPaddingAndUnseenTokensZero) {
  for (const Shape& shape : kShapes) {
    const auto& [N, V, P, C] = shape;
    SCOPED_TRACE(C);
    const Buffer tokens = tokens_below(V, N);
    for (const auto& [dtype, weight_type] : kTypePairs) {
      const Buffer dout = random({N, C}, 0, dtype);
      const Buffer sums = reference_dweight(shape, dout, tokens, 4);
      Buffer truth({V, C}, weight_type);
      for (index_t i = 0; i < truth.size(); ++i) truth.set(i, sums[i]);
      on_every_isa_for(dtype, weight_type, [&] {
        const Buffer dweight({V, C}, weight_type);
        embedding_backward({.dout = dout.view(),
                            .tokens = tokens.view(),
                            .dweight = dweight.view(),
                            .padding_idx = 4},
                           Context::current());
        if (current_isa() == Isa::simt) {  // adds parts of a row's tokens, in order, then the parts
          expect_close(dweight, Matrix(sums), tolerance_of(weight_type, N), "dweight");
        } else {
          EXPECT_TRUE(dweight == truth);
        }
      });
    }
  }
}

TEST(Embedding, ATokenOutOfRangeIsNamedBeforeAnythingIsWritten) {
  const auto& [N, V, P, C] = kShapes[0];
  Buffer tokens = tokens_below(V, N);
  tokens.set(7, V);
  const Buffer weight = random({V, C}, 0), out({N, C}), untouched = out;
  const EmbeddingForward args{.tokens = tokens.view(), .weight = weight.view(), .out = out.view()};
  EXPECT_EQ(message_of([&] { embedding_forward(args, Context::current()); }),
            "embedding: tokens has 70 at [7], expected 0 <= id < V = 70");
  EXPECT_TRUE(out == untouched);
}

}  // namespace
}  // namespace fusedlm::test
