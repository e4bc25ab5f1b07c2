// The optimizer's step and the norm of the gradients against double.

#include "fusedlm/adamw.h"

#include "support.h"

namespace fusedlm::test {
namespace {

constexpr double kBeta1 = 0.9, kBeta2 = 0.95, kEps = 1e-8, kClip = 0.5;

// What one parameter needs. The truth of m and v runs beside them in double; that of the parameter
// starts anew from each step's result, so that one rounding is all that may part them.
struct Parameter {
  Buffer param, grad, m, v;
  double lr, weight_decay;
  std::vector<double> true_param, true_m, true_v;

  Parameter(index_t count, uint64_t seed, DType dtype, DType grad_dtype, double lr,
            double weight_decay)
      : param(random({count}, seed, dtype)),
        grad(random({count}, seed + 1, grad_dtype)),
        m({count}, DType::float32, std::vector<double>(count)),
        v(m),
        lr(lr),
        weight_decay(weight_decay),
        true_param(count),
        true_m(count),
        true_v(count) {}
  /// The truth of the step that is about to be taken.
  void step_truth(index_t step) {
    for (index_t i = 0; i < param.size(); ++i) {
      const double g = kClip * grad[i];
      true_m[i] += (1.0 - kBeta1) * (g - true_m[i]);
      true_v[i] = kBeta2 * true_v[i] + (1.0 - kBeta2) * g * g;
      const double m_hat = true_m[i] / (1.0 - std::pow(kBeta1, step)),
                   v_hat = true_v[i] / (1.0 - std::pow(kBeta2, step));
      true_param[i] = param[i] * (1.0 - lr * weight_decay) - lr * m_hat / (std::sqrt(v_hat) + kEps);
    }
  }
};

AdamwStep arguments(const std::vector<Parameter>& parameters, index_t step) {
  AdamwStep args{.beta1 = kBeta1, .beta2 = kBeta2, .eps = kEps, .clip_scale = kClip};
  for (const Parameter& p : parameters) {
    args.params.push_back(p.param.view());
    args.grads.push_back(p.grad.view());
    args.exp_avgs.push_back(p.m.view());
    args.exp_avg_sqs.push_back(p.v.view());
    args.lrs.push_back(p.lr);
    args.weight_decays.push_back(p.weight_decay);
    args.steps.push_back(step);
  }
  return args;
}

// A small one, one of several blocks, and one in 16 bits with a gradient in float32.
std::vector<Parameter> some_parameters(DType half = DType::bfloat16) {
  return {{7, 0, DType::float32, DType::float32, 0.1, 0.0},
          {40003, 2, DType::float32, half, 0.01, 0.1},
          {1001, 4, half, DType::float32, 0.02, 0.1}};
}

// More tensors than one launch of the CUDA kernels takes.
constexpr uint64_t kMany = 150;

TEST(Adamw, ThreeStepsEqualDouble) {
  for (DType half : {DType::bfloat16, DType::float16}) {
    on_every_isa_for(half, [&] {
      std::vector<Parameter> parameters = some_parameters(half);
      for (uint64_t i = 0; i < kMany; ++i)
        parameters.push_back({static_cast<index_t>(1 + i % 9), i, DType::float32, half, 0.1, 0.0});
      for (index_t step = 1; step <= 3; ++step) {
        for (Parameter& p : parameters) p.step_truth(step);
        adamw_step(arguments(parameters, step), Context::current());
        for (const Parameter& p : parameters) {
          expect_close(p.m, p.true_m, 1e-6, "exp_avg");
          expect_close(p.v, p.true_v, 1e-6, "exp_avg_sq");
          expect_close(p.param, p.true_param, tolerance_of(p.param.dtype(), 1), "param");
        }
      }
    });
  }
}

TEST(Adamw, OneThreadAndTwoGiveTheSameBits) {
  expect_same_bits_for_one_and_two_threads([] {
    const std::vector<Parameter> parameters = some_parameters();
    adamw_step(arguments(parameters, 1), Context::current());
    std::vector<Buffer> results;
    for (const Parameter& p : parameters) results.insert(results.end(), {p.param, p.m, p.v});
    return results;
  });
}

TEST(Adamw, AWrongArgumentIsNamedWithItsIndex) {
  const std::vector<Parameter> parameters = some_parameters();
  AdamwStep args = arguments(parameters, 1);
  args.grads[1].shape[0] = 40002;
  const auto message = [&] { return message_of([&] { adamw_step(args, Context::current()); }); };
  EXPECT_EQ(message(), "adamw_step_: grads[1] has shape [40002], expected [40003] as in params[1]");
  args = arguments(parameters, 0);
  EXPECT_EQ(message(), "adamw_step_: steps[0] is 0, expected at least 1");
  args.lrs.pop_back();
  EXPECT_EQ(message(), "adamw_step_: lrs has 2 entries, expected 3 as in params");
}

double norm_of(const std::vector<Buffer>& grads) {
  double norm = -1.0, result = -2.0;
  GradNorm args{{}, &norm, TensorView(&result, DType::float64, {})};
  for (const Buffer& grad : grads) args.grads.push_back(grad.view());
  grad_norm(args, Context::current());
  if (std::isfinite(norm)) {
    EXPECT_EQ(norm, result);
  }
  return norm;
}

TEST(GradNorm, EqualsDouble) {
  for (DType half : {DType::bfloat16, DType::float16}) {
    std::vector<Buffer> grads{random({40003}, 0), random({5, 7}, 1, half), random({1}, 2)};
    for (uint64_t i = 0; i < kMany; ++i)
      grads.push_back(random({static_cast<index_t>(1 + i % 9)}, i, half));
    double squares = 0.0;
    for (const Buffer& grad : grads)
      for (index_t i = 0; i < grad.size(); ++i) squares += grad[i] * grad[i];
    on_every_isa_for(half, [&] { EXPECT_NEAR(norm_of(grads) / std::sqrt(squares), 1.0, 1e-6); });
  }
}

TEST(GradNorm, SquaresBeyondFloat32AreCounted) {
  for (double value : {1e30, 1e-20, 1e-25}) {
    const Buffer grad({100}, DType::float32, std::vector<double>(100, value));
    on_every_isa([&] { EXPECT_NEAR(norm_of({grad}) / (10.0 * value), 1.0, 1e-6); });
  }
}

TEST(GradNorm, IsNotFiniteExactlyWhenAnElementIsNot) {
  for (double value : {NAN, INFINITY}) {
    Buffer grad = random({40003}, 0);
    on_every_isa([&] { EXPECT_TRUE(std::isfinite(norm_of({grad}))); });
    grad.set(40001, value);
    on_every_isa([&] { EXPECT_FALSE(std::isfinite(norm_of({grad}))); });
  }
}

}  // namespace
}  // namespace fusedlm::test
