// Next tokens against a sort in double.

#include "fusedlm/sampling.h"

#include <map>

#include "support.h"

namespace fusedlm::test {
namespace {

constexpr index_t B = 3;

struct Drawn {
  Buffer tokens{{B}, DType::int64}, log_probs{{B}};
};

Drawn run(Sample args, const Buffer& logits, const Buffer* seen = nullptr) {
  Drawn drawn;
  args.logits = logits.view();
  args.tokens = drawn.tokens.view();
  args.log_probs = drawn.log_probs.view();
  if (seen) args.seen = seen->view();
  sample(args, Context::current());
  return drawn;
}

/// Log-probabilities of the tokens of a row that are kept.
std::map<index_t, double> reference(const Sample& a, const Buffer& logits, index_t row,
                                    const Buffer* seen) {
  const index_t V = logits.view().shape[1];
  std::vector<std::pair<double, index_t>> ranked;
  for (index_t v = 0; v < V; ++v) {
    double x = logits[row * V + v];
    for (index_t s = 0; seen && s < seen->view().shape[1]; ++s) {
      if ((*seen)[row * seen->view().shape[1] + s] != static_cast<double>(v)) continue;
      const auto penalty = static_cast<float>(a.repetition_penalty);
      x = x > 0 ? static_cast<float>(x) / penalty : static_cast<float>(x) * penalty;
      break;
    }
    ranked.emplace_back(-x / a.temperature, v);
  }
  std::sort(ranked.begin(), ranked.end());
  if (a.top_k && a.top_k < V) ranked.resize(a.top_k);
  const double best = ranked[0].first;
  double total = 0, before = 0, kept_total = 0;
  for (auto& [x, v] : ranked) total += std::exp(best - x);
  std::map<index_t, double> kept;
  for (auto& [x, v] : ranked) {
    const double weight = std::exp(best - x);
    if (before < a.top_p * total && weight >= a.min_p) {
      kept[v] = best - x;
      kept_total += weight;
    }
    before += weight;
  }
  for (auto& [v, log_prob] : kept) log_prob -= std::log(kept_total);
  return kept;
}

void expect_kept(const Sample& args, const Buffer& logits, const Buffer* seen = nullptr) {
  on_every_isa_for(logits.dtype(), [&] {
    const Drawn drawn = run(args, logits, seen);
    for (index_t b = 0; b < B; ++b) {
      const auto kept = reference(args, logits, b, seen);
      const auto found = kept.find(static_cast<index_t>(drawn.tokens[b]));
      ASSERT_NE(found, kept.end()) << drawn.tokens[b];
      ASSERT_NEAR(drawn.log_probs[b], found->second, 1e-5);
    }
  });
}

TEST(Sampling, DrawsFromTheTokensThatAreKept) {
  for (index_t V : {1, 31, 101, 264, 1100}) {
    SCOPED_TRACE(V);
    for (DType dtype : all_float_types()) {
      const Buffer logits = random({B, V}, 1, dtype, 5.0);
      for (uint64_t seed : {1, 2}) {
        expect_kept({.seed = seed}, logits);
        expect_kept({.temperature = 0.5, .top_k = 9, .seed = seed}, logits);
        expect_kept({.top_p = 0.7, .seed = seed}, logits);
        expect_kept({.temperature = 30, .top_k = 90, .top_p = 0.8, .min_p = 0.9, .seed = seed},
                    logits);
      }
    }
  }
}

TEST(Sampling, EqualTokensRankById) {
  Buffer logits({B, 200});
  for (index_t i = 0; i < logits.size(); ++i) logits.set(i, i * 7 % 3);
  for (uint64_t seed : {1, 2, 3}) {
    expect_kept({.top_k = 50, .seed = seed}, logits);
    expect_kept({.top_p = 0.25, .seed = seed}, logits);
    expect_kept({.top_k = 120, .top_p = 0.9, .seed = seed}, logits);
  }
}

TEST(Sampling, PenalizesEachTokenOnce) {
  const Buffer seen({B, 3}, DType::int64, std::vector<int>{0, 4, 0, 5, 5, -1, -1, -1, -1});
  for (DType dtype : all_float_types()) {
    const Buffer logits = random({B, 37}, 3, dtype, 3.0);
    expect_kept({.top_k = 30, .repetition_penalty = 1.5, .seed = 4}, logits, &seen);
  }
}

TEST(Sampling, EveryIsaDrawsTheSame) {
  const Buffer logits = random({B, 999}, 5, DType::float32, 4.0);
  const Sample args{.temperature = 1.3, .top_k = 500, .top_p = 0.95, .seed = 8, .step = 3};
  const Drawn first = run(args, logits);
  on_every_isa([&] { EXPECT_TRUE(run(args, logits).tokens == first.tokens); });
}

TEST(Sampling, ARowWithoutADistributionIsNamed) {
  Buffer logits = random({B, 8}, 0);
  logits.set(13, std::nan(""));
  on_every_isa([&] {
    EXPECT_EQ(message_of([&] { run({}, logits); }),
              "sample: logits[1] holds NaN or +inf, or nothing but -inf, expected a row to draw "
              "from");
  });
}

}  // namespace
}  // namespace fusedlm::test
