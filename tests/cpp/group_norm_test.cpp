// Group norm against double.

#include "fusedlm/group_norm.h"

#include "support.h"

namespace fusedlm::test {
namespace {

constexpr float kEps = 1e-5f;

// Samples over several tasks; behind the channels nothing, less than a warp, or runs that are packed or
// read one by one; groups for a warp, a block, and a block that reads them again.
struct Shape {
  index_t B, C, S, groups;
};
constexpr Shape kShapes[] = {{600, 96, 1, 3}, {150, 18, 5, 2}, {3, 120, 9, 1},
                             {2, 6, 83, 3},   {3, 8, 136, 4},  {2, 4, 1032, 1},
                             {2, 2, 1033, 2}, {2, 2, 8201, 2}, {2, 2, 8208, 2}};

struct Inputs {
  Shape shape;
  Buffer x, dy, weight, bias;
  explicit Inputs(DType dtype, const Shape& s, DType weight_type = DType::float32)
      : shape(s),
        x(random({s.B, s.C, s.S}, 0, dtype, 3.0)),
        dy(random({s.B, s.C, s.S}, 1, dtype)),
        weight(random({s.C}, 2, weight_type)),
        bias(random({s.C}, 3, weight_type)) {}
};

struct Truth {
  std::vector<double> y, dx, mean, rstd, dweight, dbias;
};

Truth reference(const Inputs& in) {
  const auto [B, C, S, groups] = in.shape;
  const index_t D = C / groups, size = D * S;
  Truth t;
  t.y.resize(B * C * S), t.dx.resize(B * C * S), t.dweight.resize(C), t.dbias.resize(C);
  for (index_t row = 0; row < B * groups; ++row) {
    const index_t start = row * size, first = row % groups * D;
    double mean = 0.0, variance = 0.0, mean_g = 0.0, mean_gx = 0.0;
    for (index_t i = 0; i < size; ++i) mean += in.x[start + i] / size;
    for (index_t i = 0; i < size; ++i) variance += std::pow(in.x[start + i] - mean, 2.0) / size;
    const double rstd = 1.0 / std::sqrt(variance + kEps);
    t.mean.push_back(mean), t.rstd.push_back(rstd);
    for (index_t i = 0; i < size; ++i) {
      const index_t c = first + i / S;
      const double xhat = (in.x[start + i] - mean) * rstd, dy = in.dy[start + i];
      t.y[start + i] = xhat * in.weight[c] + in.bias[c];
      t.dweight[c] += dy * xhat, t.dbias[c] += dy;
      mean_g += dy * in.weight[c] / size, mean_gx += dy * in.weight[c] * xhat / size;
    }
    for (index_t i = 0; i < size; ++i) {
      const double xhat = (in.x[start + i] - mean) * rstd;
      const double g = in.dy[start + i] * in.weight[first + i / S];
      t.dx[start + i] = rstd * (g - mean_g - xhat * mean_gx);
    }
  }
  return t;
}

struct Outputs {
  Buffer y, dx, mean, rstd, dweight, dbias;
};

Outputs group_norm(const Inputs& in) {
  const auto [B, C, S, groups] = in.shape;
  const DType dtype = in.x.view().dtype;
  Outputs o{Buffer({B, C, S}, dtype),
            Buffer({B, C, S}, dtype),
            Buffer({B, groups}),
            Buffer({B, groups}),
            Buffer({C}),
            Buffer({C})};
  group_norm_forward({in.x.view(), in.weight.view(), in.bias.view(), o.y.view(), o.mean.view(),
                      o.rstd.view(), groups, kEps},
                     Context::current());
  group_norm_backward({in.dy.view(), in.x.view(), in.weight.view(), o.mean.view(), o.rstd.view(),
                       o.dx.view(), o.dweight.view(), o.dbias.view(), groups},
                      Context::current());
  return o;
}

TEST(GroupNorm, ForwardAndBackwardEqualDouble) {
  for (const Shape& shape : kShapes) {
    for (const auto& [dtype, weight_type] : kTypePairs) {
      SCOPED_TRACE(shape.S);
      const Inputs in(dtype, shape, weight_type);
      const Truth truth = reference(in);
      const index_t size = shape.C / shape.groups * shape.S;
      // What is float32 in either dtype.
      const double wide = tolerance_of(DType::float32, std::max(size, shape.B * shape.S));
      on_every_isa_for(dtype, weight_type, [&] {
        const Outputs o = group_norm(in);
        expect_close(o.y, truth.y, tolerance_of(dtype, 4), "y");
        expect_close(o.dx, truth.dx, tolerance_of(dtype, size), "dx");
        // The mean is small against what is added: elements up to 3.
        for (index_t i = 0; i < o.mean.size(); ++i) EXPECT_NEAR(o.mean[i], truth.mean[i], 3e-6);
        expect_close(o.rstd, truth.rstd, wide, "rstd");
        expect_close(o.dweight, truth.dweight, wide, "dweight");
        expect_close(o.dbias, truth.dbias, wide, "dbias");
      });
    }
  }
}

TEST(GroupNorm, WhatIsNotGivenIsOneAndZeroAndHasNoGradient) {
  for (const Shape& shape : {Shape{3, 6, 1, 2}, Shape{3, 6, 40, 2}}) {
    const auto [B, C, S, groups] = shape;
    Inputs in(DType::float32, shape);
    for (index_t c = 0; c < C; ++c) in.weight.set(c, 1.0), in.bias.set(c, 0.0);
    on_every_isa([&] {
      const Outputs expected = group_norm(in);
      Buffer y({B, C, S}), dx({B, C, S});
      group_norm_forward({.x = in.x.view(),
                          .y = y.view(),
                          .mean = expected.mean.view(),
                          .rstd = expected.rstd.view(),
                          .groups = groups},
                         Context::current());
      group_norm_backward({.dy = in.dy.view(),
                           .x = in.x.view(),
                           .mean = expected.mean.view(),
                           .rstd = expected.rstd.view(),
                           .dx = dx.view(),
                           .groups = groups},
                          Context::current());
      EXPECT_TRUE(y == expected.y && dx == expected.dx);
    });
  }
}

TEST(GroupNorm, OneThreadAndTwoGiveTheSameBits) {
  for (const Shape& shape : kShapes) {
    const Inputs in(DType::bfloat16, shape);
    expect_same_bits_for_one_and_two_threads([&] {
      const Outputs o = group_norm(in);
      return std::vector<Buffer>{o.y, o.dx, o.mean, o.rstd, o.dweight, o.dbias};
    });
  }
}

TEST(GroupNorm, AWrongArgumentIsNamed) {
  const Buffer x({2, 6, 5}), statistic({2, 4});
  GroupNormForward args{.x = x.view(),
                        .y = x.view(),
                        .mean = statistic.view(),
                        .rstd = statistic.view(),
                        .groups = 4};
  const auto message = [&] {
    return message_of([&] { group_norm_forward(args, Context::current()); });
  };
  EXPECT_EQ(message(), "group_norm: groups is 4, expected a divisor of C = 6 as in x");
  args.groups = 3;
  EXPECT_EQ(message(), "group_norm: mean has shape [2, 4], expected 3 in dimension 1 as in groups");
}

}  // namespace
}  // namespace fusedlm::test
