// Embedding: rows are copied and added, so results are equal and not only close.

#include "fusedlm/embedding.h"

#include "support.h"

namespace fusedlm::test {
namespace {

constexpr index_t N = 100, V = 70, P = 9, C = 43;

Buffer tokens_below(index_t limit) {
  Buffer tokens({N}, DType::int64);
  for (index_t n = 0; n < N; ++n) tokens.set(n, n * n % limit);
  return tokens;
}

TEST(Embedding, ForwardIsTheRowOfTheTokenPlusThatOfThePosition) {
  const Buffer tokens = tokens_below(V), positions = tokens_below(P);
  for (DType weight_type : kAllFloatTypes) {
    for (DType out_type : kAllFloatTypes) {
      if (size_of(weight_type) == 2 && size_of(out_type) == 2 && weight_type != out_type) continue;
      const Buffer weight = random({V, C}, 0, weight_type),
                   position_weight = random({P, C}, 1, weight_type);
      on_every_isa_for(weight_type == DType::float16 ? weight_type : out_type, [&] {
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
Buffer reference_dweight(const Buffer& dout, const Buffer& tokens, index_t padding_idx) {
  Buffer dweight({V, C}, DType::float32, std::vector<double>(V * C));
  for (index_t n = 0; n < N; ++n) {
    const auto row = static_cast<index_t>(tokens[n]) * C;
    for (index_t c = 0; c < C && row != padding_idx * C; ++c)
      dweight.set(row + c, dweight[row + c] + dout[n * C + c]);
  }
  return dweight;
}

TEST(Embedding, BackwardAddsInOrderAndLeavesPaddingAndUnseenTokensZero) {
  const Buffer tokens = tokens_below(V);
  for (DType dtype : kAllFloatTypes) {
    const Buffer dout = random({N, C}, 0, dtype);
    const Buffer truth = reference_dweight(dout, tokens, 4);
    on_every_isa_for(dtype, [&] {
      const Buffer dweight({V, C});
      embedding_backward({.dout = dout.view(),
                          .tokens = tokens.view(),
                          .dweight = dweight.view(),
                          .padding_idx = 4},
                         Context::current());
      if (current_isa() == Isa::simt) {  // adds parts of a row's tokens, in order, then the parts
        std::vector<double> values;
        for (index_t i = 0; i < truth.size(); ++i) values.push_back(truth[i]);
        expect_close(dweight, values, tolerance_of(DType::float32, N), "dweight");
      } else {
        EXPECT_TRUE(dweight == truth);
      }
    });
  }
}

TEST(Embedding, ATokenOutOfRangeIsNamedBeforeAnythingIsWritten) {
  Buffer tokens = tokens_below(V);
  tokens.set(7, V);
  const Buffer weight = random({V, C}, 0), out({N, C}), untouched = out;
  const EmbeddingForward args{.tokens = tokens.view(), .weight = weight.view(), .out = out.view()};
  EXPECT_EQ(message_of([&] { embedding_forward(args, Context::current()); }),
            "embedding: tokens has 70 at [7], expected 0 <= id < V = 70");
  EXPECT_TRUE(out == untouched);
}

}  // namespace
}  // namespace fusedlm::test
