// The loss on the logits of a linear layer, with its gradients, against double.

#include "fusedlm/linear_cross_entropy.h"

#include "support.h"

namespace fusedlm::test {
namespace {

constexpr index_t kIgnored = -100;

struct Case {
  const char* name;
  Reduction reduction = Reduction::mean;
  float label_smoothing = 0.0f, z_loss = 0.0f, softcap = 0.0f;
  bool class_weight = false;
  index_t N = 70, C = 19, V = 131;
  bool narrow_dweight = false;  // as the weight, else float32
};
constexpr Case kCases[] = {
    {"mean"},
    {"sum", Reduction::sum},
    {"row by row", Reduction::none},
    {"label smoothing", Reduction::mean, 0.1f},
    {"z-loss", Reduction::mean, 0.0f, 0.01f},
    {"softcap", Reduction::mean, 0.0f, 0.0f, 3.0f},
    {"class weights", Reduction::mean, 0.0f, 0.0f, 0.0f, true},
    {"everything, row by row", Reduction::none, 0.2f, 0.01f, 5.0f, true},
    {"several chunks of rows", Reduction::mean, 0.0f, 0.0f, 0.0f, false, 70, 2, 140000},
    {"several chunks of the emulator", Reduction::mean, 0.0f, 0.0f, 0.0f, false, 70, 2, 1001},
    {"several chunks, dweight as weight", Reduction::mean, 0.0f, 0.0f, 0.0f, false, 70, 2, 1001,
     true},
};

/// Seconds where every thread is emulated.
bool too_large(const Case& c) { return c.V > 100000; }
bool too_large_here(const Case& c) { return current_isa() == Isa::simt && too_large(c); }

struct Inputs {
  Buffer x, weight, bias, class_weight, row_grad, targets;
  Inputs(const Case& c, DType dtype)
      : x(random({c.N, c.C}, 0, dtype)),
        weight(random({c.V, c.C}, 1, dtype)),
        bias(random({c.V}, 2)),
        class_weight(random({c.V}, 3)),
        row_grad(random({c.N}, 4)),
        targets({c.N}, DType::int64) {
    for (index_t v = 0; v < c.V; ++v) class_weight.set(v, class_weight[v] + 1.5);
    for (index_t n = 0; n < c.N; ++n) targets.set(n, n % 7 == 3 ? kIgnored : n * 5 % c.V);
  }
};

struct Outputs {
  Buffer loss, dx, dweight, dbias;
  Outputs(const Case& c, DType dtype)
      : loss({c.reduction == Reduction::none ? c.N : 1}),
        dx({c.N, c.C}, dtype),
        dweight({c.V, c.C}, c.narrow_dweight ? dtype : DType::float32),
        dbias({c.V}) {}
};

Outputs run(const Case& c, const Inputs& in, DType dtype) {
  Outputs o(c, dtype);
  const bool each = c.reduction == Reduction::none;
  linear_cross_entropy({.x = in.x.view(),
                        .weight = in.weight.view(),
                        .bias = in.bias.view(),
                        .targets = in.targets.view(),
                        .class_weight = c.class_weight ? in.class_weight.view() : TensorView(),
                        .row_grad = each ? in.row_grad.view() : TensorView(),
                        .loss = o.loss.view(),
                        .dx = o.dx.view(),
                        .dweight = o.dweight.view(),
                        .dbias = o.dbias.view(),
                        .options = {.reduction = c.reduction,
                                    .ignore_index = kIgnored,
                                    .label_smoothing = c.label_smoothing,
                                    .z_loss = c.z_loss,
                                    .softcap = c.softcap}},
                       Context::current());
  return o;
}

struct Truth {
  std::vector<double> loss;
  Matrix dlogits;
};

// In: logits. Out: the gradient of the row's loss, which is returned.
double reference_row(const Case& c, const Inputs& in, index_t target, double* logits) {
  const auto weight = [&](index_t v) { return c.class_weight ? in.class_weight[v] : 1.0; };
  const double e = c.label_smoothing, w = weight(target);
  std::vector<double> capped(logits, logits + c.V);
  double sum = 0.0, weights = 0.0, smooth = 0.0;
  for (double& l : capped) {
    if (c.softcap > 0) l = c.softcap * std::tanh(l / c.softcap);
    sum += std::exp(l);
  }
  const double lse = std::log(sum);
  for (index_t v = 0; v < c.V; ++v) {
    weights += weight(v);
    smooth += weight(v) * (lse - capped[v]);
  }
  for (index_t v = 0; v < c.V; ++v) {
    const double p = std::exp(capped[v] - lse);
    logits[v] = (1.0 - e) * w * (p - (v == target)) + e / c.V * (weights * p - weight(v)) +
                2.0 * c.z_loss * w * lse * p;
    if (c.softcap > 0) logits[v] *= 1.0 - std::pow(capped[v] / c.softcap, 2.0);
  }
  return (1.0 - e) * w * (lse - capped[target]) + e / c.V * smooth + c.z_loss * w * lse * lse;
}

Truth reference(const Case& c, const Inputs& in) {
  Matrix slopes = (Matrix(in.x) * Matrix(in.weight).transposed()).plus_to_each_row(in.bias);
  std::vector<double> losses(c.N);
  double total = 0.0, counted = 0.0;
  for (index_t n = 0; n < c.N; ++n) {
    const auto target = static_cast<index_t>(in.targets[n]);
    if (target == kIgnored) {
      std::fill_n(&slopes(n, 0), c.V, 0.0);
      continue;
    }
    losses[n] = reference_row(c, in, target, &slopes(n, 0));
    total += losses[n];
    counted += c.class_weight ? in.class_weight[target] : 1.0;
  }
  const double scale = c.reduction == Reduction::mean ? 1.0 / counted : 1.0;
  for (index_t n = 0; n < c.N; ++n) {
    const double arriving = c.reduction == Reduction::none ? in.row_grad[n] : scale;
    for (index_t v = 0; v < c.V; ++v) slopes(n, v) *= arriving;
  }
  if (c.reduction != Reduction::none) losses = {total * scale};
  return {losses, slopes};
}

TEST(LinearCrossEntropy, LossAndGradientsEqualDouble) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    for (DType dtype : all_float_types()) {
      SCOPED_TRACE(name_of(dtype));
      if (dtype == DType::float16 && too_large(c)) continue;
      const Inputs in(c, dtype);
      const Truth truth = reference(c, in);
      const Matrix dx = truth.dlogits * Matrix(in.weight),
                   dweight = truth.dlogits.transposed() * Matrix(in.x),
                   dbias = truth.dlogits.sum_of_rows();
      on_every_isa_for(dtype, [&] {
        if (too_large_here(c)) return;
        const Outputs o = run(c, in, dtype);
        // Logits of 16 bits are rounded, by up to half a step of each (as torch rounds its own); so
        // are their gradients before the products, and then the result.
        expect_close(o.loss, truth.loss,
                     dtype == DType::float32 ? 2e-6 : tolerance_of(dtype, 1) / 2, "loss");
        expect_close(o.dx, dx, tolerance_of(dtype, c.V, 2), "dx");
        expect_close(o.dweight, dweight, tolerance_of(dtype, c.N, 2), "dweight");
        expect_close(o.dbias, dbias, tolerance_of(dtype, c.N, 2), "dbias");
      });
    }
  }
}

TEST(LinearCrossEntropy, LargeLogitsDoNotOverflow) {
  const Case c{"", Reduction::mean, 0.0f, 0.0f, 0.0f, false, 2, 1, 3};
  const Buffer x({2, 1}, DType::float32, std::vector<double>{1000.0, -1000.0}),
      weight({3, 1}, DType::float32, std::vector<double>{1.0, 0.0, -1.0}),
      targets({2}, DType::int64, std::vector<index_t>{1, 2});
  on_every_isa([&] {
    const Outputs o(c, DType::float32);
    linear_cross_entropy(
        {.x = x.view(), .weight = weight.view(), .targets = targets.view(), .loss = o.loss.view()},
        Context::current());
    EXPECT_FLOAT_EQ(o.loss[0], 500.0f);  // rows lose 1000 and 0
  });
}

TEST(LinearCrossEntropy, OneThreadAndTwoGiveTheSameBits) {
  for (const Case& c : {kCases[7], kCases[8], kCases[9]}) {
    const Inputs in(c, DType::bfloat16);
    expect_same_bits_for_one_and_two_threads([&] {
      if (too_large_here(c)) return std::vector<Buffer>{};
      const Outputs o = run(c, in, DType::bfloat16);
      return std::vector<Buffer>{o.loss, o.dx, o.dweight, o.dbias};
    });
  }
}

TEST(LinearCrossEntropy, ATargetOutOfRangeIsNamed) {
  const Case c{""};
  Inputs in(c, DType::float32);
  in.targets.set(2, c.V);
  EXPECT_EQ(message_of([&] { run(c, in, DType::float32); }),
            "linear_cross_entropy: targets[2] is 131, expected 0 to 130 or ignore_index -100");
}

}  // namespace
}  // namespace fusedlm::test
