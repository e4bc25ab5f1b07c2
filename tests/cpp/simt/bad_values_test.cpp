// Ids, positions, targets and logits that the host refuses where it can look at them. On a GPU it does not look:
// kernels read nothing out of bounds and say by NaN, or token -1, that a row was bad. `wanted` is what
// the same kernels make of good values; the tests of the ops hold those against double.

#include <cstdint>
#include <limits>

#include "fusedlm/cross_entropy.h"
#include "fusedlm/embedding.h"
#include "fusedlm/linear_cross_entropy.h"
#include "fusedlm/rope.h"
#include "fusedlm/sampling.h"
#include "simt/unchecked_call.h"

namespace fusedlm {
FUSEDLM_DECLARE_KERNEL(simt, embedding_forward, EmbeddingForward)
FUSEDLM_DECLARE_KERNEL(simt, embedding_backward, EmbeddingBackward)
FUSEDLM_DECLARE_KERNEL(simt, rope, Rope)
FUSEDLM_DECLARE_KERNEL(simt, cross_entropy_forward, CrossEntropyForward)
FUSEDLM_DECLARE_KERNEL(simt, cross_entropy_backward, CrossEntropyBackward)
FUSEDLM_DECLARE_KERNEL(simt, linear_cross_entropy, LinearCrossEntropy)
FUSEDLM_DECLARE_KERNEL(simt, sample, Sample)
}  // namespace fusedlm

namespace fusedlm::test {
namespace {

bool is_bad(index_t n) { return n % 5 == 1 || n % 5 == 3; }

/// Ids below `count`, and in bad rows some that name nothing. With `mended` those are 0 instead.
Buffer ids(std::initializer_list<index_t> shape, index_t count, bool mended) {
  using Limits = std::numeric_limits<int64_t>;
  const int64_t bad[] = {-1, count, Limits::max(), Limits::min(), int64_t{1} << 32};
  Buffer buffer(shape, DType::int64);
  for (index_t n = 0; n < buffer.size(); ++n) {
    buffer.set(n, !is_bad(n) ? n * 3 % count : mended ? 0 : bad[n * 2 / 5 % 5]);
  }
  return buffer;
}

Buffer embed(const Buffer& tokens, const Buffer& weight, const Buffer* positions,
             const Buffer& position_weight) {
  Buffer out = sevens({tokens.size(), weight.view().shape[1]}, weight.dtype());
  EmbeddingForward a{.tokens = tokens.view(), .weight = weight.view(), .out = out.view()};
  if (positions) a.positions = positions->view(), a.position_weight = position_weight.view();
  call_unchecked(simt::embedding_forward, a,
                 {{"tokens", a.tokens},
                  {"weight", a.weight},
                  {"positions", a.positions},
                  {"position_weight", a.position_weight},
                  {"out", a.out}});
  return out;
}

TEST(BadValues, ATokenOrAPositionOutOfRangeEmbedsAsNan) {
  constexpr index_t N = 13, V = 11, P = 6;
  for (DType dtype : kFloatTypes) {
    // Rows of single elements and of packs; of a warp, of a block, and too long for its registers.
    for (index_t C : {5, 24, 1032, 8200}) {
      SCOPED_TRACE(std::string(name_of(dtype)) + ", C = " + std::to_string(C));
      const Buffer weight = random({V, C}, 0, dtype), places = random({P, C}, 1, dtype);
      const Buffer tokens = ids({N}, V, true), bad_tokens = ids({N}, V, false);
      const Buffer positions = ids({N}, P, true), bad_positions = ids({N}, P, false);
      const auto expect = [&](const Buffer& got, const Buffer& wanted, const char* name) {
        expect_nan_in_bad_rows(got, wanted, C, is_bad, name);
      };
      expect(embed(bad_tokens, weight, nullptr, places), embed(tokens, weight, nullptr, places),
             "tokens alone");
      const Buffer wanted = embed(tokens, weight, &positions, places);
      expect(embed(bad_tokens, weight, &positions, places), wanted, "tokens");
      expect(embed(tokens, weight, &bad_positions, places), wanted, "positions");
    }
  }
}

TEST(BadValues, TokensOutOfRangeAddToNoRowOfTheGradient) {
  constexpr index_t N = 300, V = 11;  // several tokens' runs are longer than a piece
  for (DType dtype : kFloatTypes) {
    for (index_t C : {5, 24}) {
      for (index_t padding : {-1, 2}) {
        SCOPED_TRACE(std::string(name_of(dtype)) + ", C = " + std::to_string(C));
        const Buffer dout = random({N, C}, 0, dtype), tokens = ids({N}, V, false);
        Matrix truth(V, C);
        for (index_t n = 0; n < N; ++n) {
          if (is_bad(n) || tokens[n] == static_cast<double>(padding)) continue;
          for (index_t c = 0; c < C; ++c) truth(n * 3 % V, c) += dout[n * C + c];
        }
        const Buffer dweight = sevens({V, C}, dtype);
        const EmbeddingBackward a{dout.view(), tokens.view(), dweight.view(), padding};
        call_unchecked(simt::embedding_backward, a,
                       {{"dout", a.dout}, {"tokens", a.tokens}, {"dweight", a.dweight}});
        expect_close(dweight, truth, tolerance_of(dtype, N), "dweight");
      }
    }
  }
}

TEST(BadValues, WhatTurnsByAPositionOutOfRangeIsNan) {
  constexpr index_t B = 2, T = 7, H = 3, P = 9;
  constexpr index_t kWidths[][2] = {{16, 8}, {16, 4}, {10, 3}};  // D and pairs: packed or not
  for (DType dtype : kFloatTypes) {
    for (const auto& [D, half] : kWidths) {
      const Buffer x = random({B, T, H, D}, 0, dtype);
      const Buffer cos = random({P, half}, 1), sin = random({P, half}, 2);
      for (int way = 0; way < 4; ++way) {
        SCOPED_TRACE(std::string(name_of(dtype)) + ", D = " + std::to_string(D) + ", way " +
                     std::to_string(way));
        const auto turned = [&, D = D](bool mended) {
          const Buffer y = sevens({B, T, H, D}, dtype), positions = ids({B, T}, P, mended);
          const Rope a{.x = x.view(),
                       .cos = cos.view(),
                       .sin = sin.view(),
                       .positions = positions.view(),
                       .y = y.view(),
                       .interleaved = way % 2 == 1,
                       .inverse = way / 2 == 1};
          call_unchecked(
              simt::rope, a,
              {{"x", a.x}, {"cos", a.cos}, {"sin", a.sin}, {"positions", a.positions}, {"y", a.y}});
          return y;
        };
        expect_nan_in_bad_rows(
            turned(false), turned(true), D, [](index_t row) { return is_bad(row / H); }, 2 * half,
            "y");
      }
    }
  }
}

constexpr Reduction kReductions[] = {Reduction::none, Reduction::mean, Reduction::sum};

/// Targets of N rows; every seventh that is not bad is ignored.
Buffer targets_of(index_t N, index_t V, bool mended) {
  Buffer targets = ids({N}, V, mended);
  for (index_t n = 0; n < N; n += 7) {
    if (!is_bad(n)) targets.set(n, -100);
  }
  return targets;
}
bool is_ignored(index_t n) { return n % 7 == 0 && !is_bad(n); }

/// The loss alone, and with all that can be added to it.
std::vector<CrossEntropyOptions> options_of(Reduction reduction) {
  return {{.reduction = reduction},
          {.reduction = reduction, .label_smoothing = 0.1f, .z_loss = 0.01f, .softcap = 3.0f}};
}

struct Losses {
  Buffer loss, lse, dlogits;
};

Losses cross_entropy(const Buffer& logits, const Buffer& weights,
                     const CrossEntropyOptions& options, bool mended) {
  const index_t N = logits.view().shape[0], V = logits.view().shape[1];
  const index_t losses = options.reduction == Reduction::none ? N : 1;
  const Buffer targets = targets_of(N, V, mended), dloss = random({losses}, 3);
  const TensorView class_weight = options.softcap > 0 ? weights.view() : TensorView();
  Losses o{sevens({losses}), sevens({N}), sevens({N, V}, logits.dtype())};
  const CrossEntropyForward a{.logits = logits.view(),
                              .targets = targets.view(),
                              .class_weight = class_weight,
                              .loss = o.loss.view(),
                              .lse = o.lse.view(),
                              .options = options};
  call_unchecked(simt::cross_entropy_forward, a,
                 {{"logits", a.logits},
                  {"targets", a.targets},
                  {"class_weight", a.class_weight},
                  {"loss", a.loss},
                  {"lse", a.lse}});
  const CrossEntropyBackward b{.dloss = dloss.view(),
                               .logits = a.logits,
                               .targets = a.targets,
                               .class_weight = class_weight,
                               .lse = a.lse,
                               .dlogits = o.dlogits.view(),
                               .options = options};
  call_unchecked(simt::cross_entropy_backward, b,
                 {{"dloss", b.dloss},
                  {"logits", b.logits},
                  {"targets", b.targets},
                  {"class_weight", b.class_weight},
                  {"lse", b.lse},
                  {"dlogits", b.dlogits}});
  return o;
}

// A mean divides by the sum of the weights that count, which is NaN as well then.
TEST(BadValues, ATargetOutOfRangeIsNanInItsRowsLossAndGradientAndInAllOfAMean) {
  constexpr index_t N = 15;
  for (DType dtype : kFloatTypes) {
    for (index_t V : {37, 64}) {
      const Buffer logits = random({N, V}, 0, dtype, 4.0), weights = random({V}, 1);
      for (Reduction reduction : kReductions) {
        for (const CrossEntropyOptions& options : options_of(reduction)) {
          SCOPED_TRACE(std::string(name_of(dtype)) + ", V = " + std::to_string(V) + ", reduction " +
                       std::to_string(static_cast<int>(reduction)) + ", softcap " +
                       std::to_string(options.softcap));
          const Losses got = cross_entropy(logits, weights, options, false),
                       wanted = cross_entropy(logits, weights, options, true);
          EXPECT_TRUE(got.lse == wanted.lse);
          if (reduction == Reduction::none) {
            expect_nan_in_bad_rows(got.loss, wanted.loss, 1, is_bad, "loss");
          } else {
            expect_all_nan(got.loss, "loss");
          }
          expect_nan_in_bad_rows(
              got.dlogits, wanted.dlogits, V,
              [&](index_t n) { return reduction == Reduction::mean ? !is_ignored(n) : is_bad(n); },
              "dlogits");
        }
      }
    }
  }
}

struct LinearLosses {
  Buffer loss, dx, dweight, dbias;
};

TEST(BadValues, LinearCrossEntropyHasNanInTheRowAndInWhatAddsUpRows) {
  constexpr index_t N = 40, C = 8, V = 530;  // two chunks of rows in float32
  for (DType dtype : kFloatTypes) {
    const Buffer x = random({N, C}, 0, dtype), weight = random({V, C}, 1, dtype),
                 bias = random({V}, 2, dtype), row_grad = random({N}, 3);
    for (Reduction reduction : kReductions) {
      SCOPED_TRACE(std::string(name_of(dtype)) + ", reduction " +
                   std::to_string(static_cast<int>(reduction)));
      const bool each = reduction == Reduction::none;
      const auto run = [&](bool mended) {
        const Buffer targets = targets_of(N, V, mended);
        LinearLosses o{sevens({each ? N : 1}), sevens({N, C}, dtype), sevens({V, C}, dtype),
                       sevens({V})};
        const LinearCrossEntropy a{.x = x.view(),
                                   .weight = weight.view(),
                                   .bias = bias.view(),
                                   .targets = targets.view(),
                                   .row_grad = each ? row_grad.view() : TensorView(),
                                   .loss = o.loss.view(),
                                   .dx = o.dx.view(),
                                   .dweight = o.dweight.view(),
                                   .dbias = o.dbias.view(),
                                   .options = {.reduction = reduction}};
        call_unchecked(simt::linear_cross_entropy, a,
                       {{"x", a.x},
                        {"weight", a.weight},
                        {"bias", a.bias},
                        {"targets", a.targets},
                        {"row_grad", a.row_grad},
                        {"loss", a.loss},
                        {"dx", a.dx},
                        {"dweight", a.dweight},
                        {"dbias", a.dbias}});
        return o;
      };
      const LinearLosses got = run(false), wanted = run(true);
      if (each) {
        expect_nan_in_bad_rows(got.loss, wanted.loss, 1, is_bad, "loss");
      } else {
        expect_all_nan(got.loss, "loss");
      }
      expect_nan_in_bad_rows(
          got.dx, wanted.dx, C,
          [&](index_t n) { return reduction == Reduction::mean ? !is_ignored(n) : is_bad(n); },
          "dx");
      expect_all_nan(got.dweight, "dweight");
      expect_all_nan(got.dbias, "dbias");
    }
  }
}

struct Drawn {
  Buffer tokens, log_probs;
};

/// Logits of which bad rows have no distribution: by one NaN or +inf, or by nothing but -inf.
Buffer logits_of(index_t B, index_t V, DType dtype, bool mended) {
  Buffer logits = random({B, V}, 0, dtype, 4.0);
  for (index_t b = 0; b < B; ++b) {
    logits.set(b * V + 1, -INFINITY);  // harmless in a good row
    if (!is_bad(b) || mended) continue;
    if (b % 3 == 0) logits.set(b * V + V - 2, NAN);
    if (b % 3 == 1) logits.set(b * V + V / 2, INFINITY);
    for (index_t v = 0; v < V && b % 3 == 2; ++v) logits.set(b * V + v, -INFINITY);
  }
  return logits;
}

TEST(BadValues, ARowWithoutADistributionGivesTokenMinusOneAndTheOthersAreTheCpus) {
  constexpr index_t B = 10, S = 4;
  struct Way {
    double temperature = 1.0, top_p = 1.0, min_p = 0.0, penalty = 1.0;
    index_t top_k = 0;
  };
  constexpr Way kWays[] = {{.temperature = 0.0}, {.temperature = 0.7}, {.top_p = 0.8},
                           {.min_p = 0.1},       {.top_k = 5},         {1.3, 0.9, 0.05, 1.4, 20}};
  for (DType dtype : kFloatTypes) {
    for (index_t V : {37, 640}) {
      for (const Way& way : kWays) {
        SCOPED_TRACE(std::string(name_of(dtype)) + ", V = " + std::to_string(V) + ", way " +
                     std::to_string(&way - kWays));
        const auto sample_of = [&](const Buffer& logits, const Buffer& seen, const Drawn& drawn) {
          return Sample{.logits = logits.view(),
                        .seen = way.penalty != 1 ? seen.view() : TensorView(),
                        .tokens = drawn.tokens.view(),
                        .log_probs = drawn.log_probs.view(),
                        .temperature = way.temperature,
                        .top_k = way.top_k,
                        .top_p = way.top_p,
                        .min_p = way.min_p,
                        .repetition_penalty = way.penalty,
                        .seed = 5};
        };
        const Drawn got{sevens({B}, DType::int64), sevens({B})}, wanted = got;
        // Ids out of range have been seen by nobody: for the CPU -1 says so.
        const Buffer bad_seen = ids({B, S}, V, false);
        Buffer seen = bad_seen;
        for (index_t i = 0; i < B * S; ++i) {
          if (is_bad(i)) seen.set(i, -1);
        }
        const Buffer bad_logits = logits_of(B, V, dtype, false),
                     logits = logits_of(B, V, dtype, true);
        const Sample a = sample_of(bad_logits, bad_seen, got);
        call_unchecked(simt::sample, a,
                       {{"logits", a.logits},
                        {"seen", a.seen},
                        {"tokens", a.tokens},
                        {"log_probs", a.log_probs}});
        fusedlm::sample(sample_of(logits, seen, wanted), Context::current());
        for (index_t b = 0; b < B; ++b) {
          EXPECT_EQ(got.tokens[b], is_bad(b) ? -1.0 : wanted.tokens[b]) << "row " << b;
        }
        expect_nan_in_bad_rows(got.log_probs, wanted.log_probs, 1, is_bad, "log_probs");
      }
    }
  }
}

}  // namespace
}  // namespace fusedlm::test
