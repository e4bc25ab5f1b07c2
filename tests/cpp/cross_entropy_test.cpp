// The loss of logits that are given, and its gradient, against double.

#include "fusedlm/cross_entropy.h"

#include "support.h"

namespace fusedlm::test {
namespace {

constexpr index_t kIgnored = -100;

struct Case {
  const char* name;
  CrossEntropyOptions options;
  bool class_weight = false;
  index_t N = 21, V = 131;
};
constexpr Case kCases[] = {
    {"mean", {}},
    {"sum", {.reduction = Reduction::sum}},
    {"row by row", {.reduction = Reduction::none}},
    {"label smoothing", {.label_smoothing = 0.1f}},
    {"z-loss", {.z_loss = 0.01f}},
    {"softcap", {.softcap = 3.0f}},
    {"class weights", {}, true},
    {"everything, row by row", {Reduction::none, kIgnored, 0.2f, 0.01f, 5.0f}, true},
    {"one class", {}, false, 3, 1},
    {"rows longer than L1", {.label_smoothing = 0.1f, .softcap = 9.0f}, false, 3, 40001},
};

struct Inputs {
  Buffer logits, targets, class_weight, dloss;
  Inputs(const Case& c, DType dtype)
      : logits(random({c.N, c.V}, 0, dtype, 3.0)),
        targets({c.N}, DType::int64),
        class_weight(random({c.V}, 1)),
        dloss(random({c.options.reduction == Reduction::none ? c.N : 1}, 2)) {
    for (index_t n = 0; n < c.N; ++n) targets.set(n, n % 7 == 3 ? kIgnored : n * 5 % c.V);
    for (index_t v = 0; v < c.V; ++v) class_weight.set(v, class_weight[v] + 1.5);
  }
  TensorView weights(const Case& c) const {
    return c.class_weight ? class_weight.view() : TensorView();
  }
};

struct Outputs {
  Buffer loss, lse, dlogits;
};

Outputs run(const Case& c, const Inputs& in, DType dtype) {
  Outputs o{Buffer({in.dloss.size()}), Buffer({c.N}), Buffer({c.N, c.V}, dtype)};
  Context& ctx = Context::current();
  cross_entropy_forward(
      {in.logits.view(), in.targets.view(), in.weights(c), o.loss.view(), o.lse.view(), c.options},
      ctx);
  cross_entropy_backward({in.dloss.view(), in.logits.view(), in.targets.view(), in.weights(c),
                          o.lse.view(), o.dlogits.view(), c.options},
                         ctx);
  return o;
}

struct Truth {
  std::vector<double> loss;
  Matrix dlogits;
};

Truth reference(const Case& c, const Inputs& in) {
  const auto weight = [&](index_t v) { return c.class_weight ? in.class_weight[v] : 1.0; };
  const CrossEntropyOptions& o = c.options;
  const double e = o.label_smoothing, z = o.z_loss, cap = o.softcap;
  std::vector<double> losses(c.N);
  Matrix slopes(c.N, c.V);
  double weights = 0.0, counted = 0.0, total = 0.0;
  for (index_t v = 0; v < c.V; ++v) weights += weight(v);
  for (index_t n = 0; n < c.N; ++n) {
    const auto y = static_cast<index_t>(in.targets[n]);
    if (y == kIgnored) continue;
    std::vector<double> l(c.V);
    double sum = 0.0, smooth = 0.0;
    for (index_t v = 0; v < c.V; ++v) {
      l[v] = in.logits[n * c.V + v];
      if (cap > 0) l[v] = cap * std::tanh(l[v] / cap);
      sum += std::exp(l[v]);
    }
    const double lse = std::log(sum), w = weight(y);
    for (index_t v = 0; v < c.V; ++v) {
      const double p = std::exp(l[v] - lse);
      smooth += weight(v) * (lse - l[v]);
      slopes(n, v) =
          (1 - e) * w * (p - (v == y)) + e / c.V * (weights * p - weight(v)) + 2 * z * w * lse * p;
      if (cap > 0) slopes(n, v) *= 1 - std::pow(l[v] / cap, 2.0);
    }
    losses[n] = (1 - e) * w * (lse - l[y]) + e / c.V * smooth + z * w * lse * lse;
    counted += w;
    total += losses[n];
  }
  const bool each = o.reduction == Reduction::none;
  const double scale = o.reduction == Reduction::mean ? 1.0 / counted : 1.0;
  for (index_t n = 0; n < c.N; ++n)
    for (index_t v = 0; v < c.V; ++v) slopes(n, v) *= scale * in.dloss[each ? n : 0];
  if (!each) losses = {total * scale};
  return {losses, slopes};
}

TEST(CrossEntropy, LossAndGradientEqualDouble) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    for (DType dtype : all_float_types()) {
      SCOPED_TRACE(name_of(dtype));
      const Inputs in(c, dtype);
      const Truth truth = reference(c, in);
      on_every_isa_for(dtype, [&] {
        const Outputs o = run(c, in, dtype);
        expect_close(o.loss, truth.loss, 3e-6, "loss");
        expect_close(o.dlogits, truth.dlogits,
                     dtype == DType::float32 ? 3e-6 : tolerance_of(dtype, 1), "dlogits");
      });
    }
  }
}

TEST(CrossEntropy, OneThreadAndTwoGiveTheSameBits) {
  for (const Case& c : {kCases[0], kCases[7]}) {
    const Inputs in(c, DType::bfloat16);
    expect_same_bits_for_one_and_two_threads([&] {
      const Outputs o = run(c, in, DType::bfloat16);
      return std::vector<Buffer>{o.loss, o.lse, o.dlogits};
    });
  }
}

TEST(CrossEntropy, ArgumentsThatDoNotFitAreNamed) {
  const Case& c = kCases[0];
  Inputs in(c, DType::float32);
  in.targets.set(2, c.V);
  EXPECT_EQ(message_of([&] { run(c, in, DType::float32); }),
            "cross_entropy: targets[2] is 131, expected 0 to 130 or ignore_index -100");
}

}  // namespace
}  // namespace fusedlm::test
