// RMSNorm and layer norm, with the residual add, against double.

#include "fusedlm/layer_norm.h"
#include "fusedlm/rms_norm.h"
#include "support.h"

namespace fusedlm::test {
namespace {

constexpr float kEps = 1e-5f;
// N over several tasks of 64 rows; C ragged for every vector width.
constexpr index_t kRows = 150, kColumns = 83;
// And rows for each way of the CUDA kernels: packed or one by one; a warp, a block, a block that reads
// the row again; more rows than there are partial sums.
constexpr index_t kShapes[][2] = {{kRows, kColumns}, {530, 64}, {3, 1032},
                                  {3, 1033},         {2, 8200}, {2, 8201}};

struct Inputs {
  Buffer x, residual, weight, bias, dy, dsum;
  explicit Inputs(DType dtype, index_t N = kRows, index_t C = kColumns,
                  DType weight_type = DType::float32)
      : x(random({N, C}, 0, dtype)),
        residual(random({N, C}, 1, dtype, 3.0)),
        weight(random({C}, 2, weight_type)),
        bias(random({C}, 3, weight_type)),
        dy(random({N, C}, 4, dtype)),
        dsum(random({N, C}, 5, dtype)) {}
};

struct Truth {
  Matrix sum, y, dx, dweight, dbias;
  std::vector<double> mean, rstd;
};

// Both norms: RMSNorm is the one whose mean is taken as 0 and whose bias is not there.
Truth reference(const Inputs& in, DType dtype, bool centred) {
  Matrix sum(in.x);
  const index_t N = sum.rows, C = sum.columns;
  for (index_t i = 0; i < N * C; ++i) sum.values[i] = rounded(in.x[i] + in.residual[i], dtype);
  Truth truth{sum, sum, sum, Matrix(1, C), Matrix(1, C), {}, {}};
  for (index_t n = 0; n < N; ++n) {
    double mean = 0.0, squares = 0.0;
    for (index_t c = 0; c < C && centred; ++c) mean += sum(n, c) / C;
    for (index_t c = 0; c < C; ++c) squares += std::pow(sum(n, c) - mean, 2.0) / C;
    const double rstd = 1.0 / std::sqrt(squares + kEps);
    truth.mean.push_back(mean);
    truth.rstd.push_back(rstd);
    double mean_g = 0.0, mean_gx = 0.0;
    for (index_t c = 0; c < C; ++c) {
      const double xhat = (sum(n, c) - mean) * rstd, dy = in.dy[n * C + c], g = dy * in.weight[c];
      truth.y(n, c) = xhat * in.weight[c] + (centred ? in.bias[c] : 0.0);
      truth.dweight(0, c) += dy * xhat;
      truth.dbias(0, c) += dy;
      mean_g += centred ? g / C : 0.0;
      mean_gx += g * xhat / C;
    }
    for (index_t c = 0; c < C; ++c) {
      const double xhat = (sum(n, c) - mean) * rstd, g = in.dy[n * C + c] * in.weight[c];
      truth.dx(n, c) = rstd * (g - mean_g - xhat * mean_gx) + in.dsum[n * C + c];
    }
  }
  return truth;
}

struct Outputs {
  Buffer y, sum, dx, mean, rstd, dweight, dbias;
  explicit Outputs(DType dtype, index_t N = kRows, index_t C = kColumns)
      : y({N, C}, dtype),
        sum({N, C}, dtype),
        dx({N, C}, dtype),
        mean({N}),
        rstd({N}),
        dweight({C}),
        dbias({C}) {}
};

Outputs rms_norm(const Inputs& in, DType dtype) {
  Outputs o(dtype, in.x.view().shape[0], in.x.view().shape[1]);
  rms_norm_forward({in.x.view(), in.residual.view(), in.weight.view(), o.y.view(), o.sum.view(),
                    o.rstd.view(), kEps},
                   Context::current());
  rms_norm_backward({in.dy.view(), o.sum.view(), in.weight.view(), o.rstd.view(), in.dsum.view(),
                     o.dx.view(), o.dweight.view()},
                    Context::current());
  return o;
}

Outputs layer_norm(const Inputs& in, DType dtype) {
  Outputs o(dtype, in.x.view().shape[0], in.x.view().shape[1]);
  layer_norm_forward({in.x.view(), in.residual.view(), in.weight.view(), in.bias.view(), o.y.view(),
                      o.sum.view(), o.mean.view(), o.rstd.view(), kEps},
                     Context::current());
  layer_norm_backward({in.dy.view(), o.sum.view(), in.weight.view(), o.mean.view(), o.rstd.view(),
                       in.dsum.view(), o.dx.view(), o.dweight.view(), o.dbias.view()},
                      Context::current());
  return o;
}

void expect_equal(const Outputs& o, const Truth& truth, DType dtype) {
  const double wide =
      tolerance_of(DType::float32,
                   std::max(o.mean.size(), o.dweight.size()));  // what is float32 in either dtype
  expect_close(o.sum, truth.sum, 0.0, "sum");
  expect_close(o.y, truth.y, tolerance_of(dtype, 4), "y");
  expect_close(o.rstd, truth.rstd, wide, "rstd");
  expect_close(o.dx, truth.dx, tolerance_of(dtype, o.dweight.size()), "dx");
  expect_close(o.dweight, truth.dweight, wide, "dweight");
}

TEST(RmsNorm, ForwardAndBackwardEqualDouble) {
  for (const auto& [N, C] : kShapes) {
    for (const auto& [dtype, weight_type] : kTypePairs) {
      SCOPED_TRACE(C);
      const Inputs in(dtype, N, C, weight_type);
      const Truth truth = reference(in, dtype, false);
      on_every_isa_for(dtype, weight_type,
                       [&] { expect_equal(rms_norm(in, dtype), truth, dtype); });
    }
  }
}

TEST(LayerNorm, ForwardAndBackwardEqualDouble) {
  for (const auto& [N, C] : kShapes) {
    for (const auto& [dtype, weight_type] : kTypePairs) {
      SCOPED_TRACE(C);
      const Inputs in(dtype, N, C, weight_type);
      const Truth truth = reference(in, dtype, true);
      on_every_isa_for(dtype, weight_type, [&] {
        const Outputs o = layer_norm(in, dtype);
        expect_equal(o, truth, dtype);
        // The mean is small against what is added: elements up to 4.
        for (index_t n = 0; n < N; ++n) EXPECT_NEAR(o.mean[n], truth.mean[n], 1e-6 * 4.0);
        expect_close(o.dbias, truth.dbias, tolerance_of(DType::float32, kRows), "dbias");
      });
    }
  }
}

TEST(LayerNorm, AFarMeanDoesNotDrownTheVariance) {
  const index_t C = 1000;
  Buffer x = random({1, C}, 0);
  for (index_t c = 0; c < C; ++c) x.set(c, x[c] + 4096.0);
  double mean = 0.0, variance = 0.0;
  for (index_t c = 0; c < C; ++c) mean += x[c] / C;
  for (index_t c = 0; c < C; ++c) variance += std::pow(x[c] - mean, 2.0) / C;
  on_every_isa([&] {
    Buffer weight({C}), y({1, C}), mean_of({1}), rstd({1});
    for (index_t c = 0; c < C; ++c) weight.set(c, 1.0);
    layer_norm_forward({.x = x.view(),
                        .weight = weight.view(),
                        .y = y.view(),
                        .mean = mean_of.view(),
                        .rstd = rstd.view(),
                        .eps = 0.0f},
                       Context::current());
    EXPECT_NEAR(rstd[0] * std::sqrt(variance), 1.0, 1e-5);
  });
}

TEST(LayerNorm, SquaresBeyondFloat32AreScaledAndEqualValuesHaveNoVariance) {
  const index_t C = 83;
  Buffer x = random({2, C}, 0), weight({C}), dweight({C}), dbias({C});
  double squares = 0.0, sum = 0.0;
  for (index_t c = 0; c < C; ++c) {
    x.set(c, x[c] * 1e30), x.set(C + c, 1e37), weight.set(c, 1.0);
    sum += x[c], squares += x[c] * x[c];
  }
  const double deviation = std::sqrt(squares / C - sum / C * sum / C);
  on_every_isa([&] {
    Buffer y({2, C}), dx({2, C}), mean({2}), rstd({2});
    layer_norm_forward({.x = x.view(),
                        .weight = weight.view(),
                        .y = y.view(),
                        .mean = mean.view(),
                        .rstd = rstd.view()},
                       Context::current());
    EXPECT_NEAR(rstd[0] * deviation, 1.0, 1e-5);
    EXPECT_NEAR(rstd[1] * std::sqrt(kEps), 1.0, 1e-5);
    layer_norm_backward({.dy = y.view(),
                         .x = x.view(),
                         .weight = weight.view(),
                         .mean = mean.view(),
                         .rstd = rstd.view(),
                         .dx = dx.view(),
                         .dweight = dweight.view(),
                         .dbias = dbias.view()},
                        Context::current());
    for (index_t c = 0; c < C; ++c) EXPECT_EQ(y[C + c], 0.0);
    for (index_t i = 0; i < 2 * C; ++i) EXPECT_TRUE(std::isfinite(dx[i]));
  });
}

TEST(RmsNorm, OneThreadAndTwoGiveTheSameBits) {
  const Inputs in(DType::bfloat16);
  expect_same_bits_for_one_and_two_threads([&] {
    const Outputs o = rms_norm(in, DType::bfloat16);
    return std::vector<Buffer>{o.y, o.sum, o.rstd, o.dx, o.dweight};
  });
}

TEST(LayerNorm, OneThreadAndTwoGiveTheSameBits) {
  const Inputs in(DType::float32);
  expect_same_bits_for_one_and_two_threads([&] {
    const Outputs o = layer_norm(in, DType::float32);
    return std::vector<Buffer>{o.y, o.sum, o.mean, o.rstd, o.dx, o.dweight, o.dbias};
  });
}

TEST(RmsNorm, AWrongArgumentIsNamed) {
  const Buffer x({4, 0}), weight({0}), rstd({4});
  const RmsNormForward args{
      .x = x.view(), .weight = weight.view(), .y = x.view(), .rstd = rstd.view(), .eps = kEps};
  EXPECT_EQ(message_of([&] { rms_norm_forward(args, Context::current()); }),
            "rms_norm: x has shape [4, 0], expected C > 0");
}

TEST(RmsNorm, ASumWithoutResidualIsRefused) {
  const Buffer x({4, 8}), weight({8}), rstd({4});
  const RmsNormForward args{.x = x.view(),
                            .weight = weight.view(),
                            .y = x.view(),
                            .sum = x.view(),
                            .rstd = rstd.view(),
                            .eps = kEps};
  EXPECT_EQ(message_of([&] { rms_norm_forward(args, Context::current()); }),
            "rms_norm: sum is given without residual");
}

TEST(LayerNorm, ASumWithoutResidualIsRefused) {
  const Buffer x({4, 8}), weight({8}), rows({4});
  const LayerNormForward args{.x = x.view(),
                              .weight = weight.view(),
                              .y = x.view(),
                              .sum = x.view(),
                              .mean = rows.view(),
                              .rstd = rows.view(),
                              .eps = kEps};
  EXPECT_EQ(message_of([&] { layer_norm_forward(args, Context::current()); }),
            "layer_norm: sum is given without residual");
}

TEST(LayerNorm, AWrongArgumentIsNamed) {
  const Buffer x({4, 8}), weight({8}), bias({8}, DType::bfloat16), rows({4});
  const LayerNormForward args{.x = x.view(),
                              .weight = weight.view(),
                              .bias = bias.view(),
                              .y = x.view(),
                              .mean = rows.view(),
                              .rstd = rows.view(),
                              .eps = kEps};
  EXPECT_EQ(message_of([&] { layer_norm_forward(args, Context::current()); }),
            "layer_norm: bias has dtype bfloat16, expected float32");
}

}  // namespace
}  // namespace fusedlm::test
