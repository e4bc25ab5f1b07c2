// Linear layer, and with it the packed matrix product that the other ops use.

#include "fusedlm/linear.h"

#include "support.h"

namespace fusedlm::test {
namespace {

struct Shape {
  index_t N, K, O;
};
// Single, few rows (dot products without packing), ragged tiles, several tasks, the largest tiles of the
// CUDA kernels, blocks of K.
constexpr Shape kShapes[] = {{1, 1, 1},      {3, 70, 37},     {17, 113, 65},
                             {130, 33, 300}, {130, 140, 150}, {6, 3500, 40}};
constexpr Activation kActivations[] = {Activation::none, Activation::relu, Activation::gelu,
                                       Activation::gelu_tanh, Activation::silu};

TEST(Linear, ForwardEqualsDouble) {
  for (auto [N, K, O] : kShapes) {
    for (DType dtype : all_float_types()) {
      const Buffer x = random({N, K}, 0, dtype), weight = random({O, K}, 1, dtype);
      const Matrix truth = Matrix(x) * Matrix(weight).transposed();
      on_every_isa_for(dtype, [&] {
        const Buffer y({N, O}, dtype);
        linear_forward({.x = x.view(), .weight = weight.view(), .y = y.view()}, Context::current());
        expect_close(y, truth, tolerance_of(dtype, K), "y");
      });
    }
  }
}

TEST(Linear, BiasActivationAndResidualEqualDouble) {
  const index_t N = 19, K = 33, O = 70;
  for (DType dtype : all_float_types()) {
    const Buffer x = random({N, K}, 0, dtype), weight = random({O, K}, 1, dtype, 0.5),
                 bias = random({O}, 2, dtype), residual = random({N, O}, 3, dtype, 0.5);
    const Matrix inner = (Matrix(x) * Matrix(weight).transposed()).plus_to_each_row(bias);
    for (Activation activation : kActivations) {
      Matrix truth = inner;
      for (index_t i = 0; i < N * O; ++i)
        truth.values[i] = activate(activation, inner.values[i]) + residual[i];
      on_every_isa_for(dtype, [&] {
        const Buffer y({N, O}, dtype), preactivation({N, O}, dtype);
        linear_forward({.x = x.view(),
                        .weight = weight.view(),
                        .bias = bias.view(),
                        .residual = residual.view(),
                        .y = y.view(),
                        .preactivation = preactivation.view(),
                        .activation = activation},
                       Context::current());
        expect_close(preactivation, inner, tolerance_of(dtype, K), "preactivation");
        expect_close(y, truth, tolerance_of(dtype, K, 2), "y");  // it starts from the rounded one
      });
    }
  }
}

TEST(Linear, BackwardEqualsDouble) {
  for (auto [N, K, O] : kShapes) {
    for (DType dtype : all_float_types()) {
      const Buffer x = random({N, K}, 0, dtype), weight = random({O, K}, 1, dtype),
                   dy = random({N, O}, 2, dtype);
      const Matrix dx_truth = Matrix(dy) * Matrix(weight);
      const Matrix dweight_truth = Matrix(dy).transposed() * Matrix(x);
      on_every_isa_for(dtype, [&] {
        const Buffer dx({N, K}, dtype), dweight({O, K}), dbias({O});
        linear_backward({.dy = dy.view(),
                         .x = x.view(),
                         .weight = weight.view(),
                         .dx = dx.view(),
                         .dweight = dweight.view(),
                         .dbias = dbias.view()},
                        Context::current());
        // Without an activation bfloat16 products are exact and only dx is rounded.
        expect_close(dx, dx_truth, tolerance_of(dtype, O), "dx");
        expect_close(dweight, dweight_truth, tolerance_of(DType::float32, N), "dweight");
        expect_close(dbias, Matrix(dy).sum_of_rows(), tolerance_of(DType::float32, N), "dbias");
      });
    }
  }
}

TEST(Linear, BackwardThroughEveryActivationEqualsDouble) {
  const index_t N = 45, K = 19;
  for (index_t O : {70, 72}) {
    for (DType dtype : all_float_types()) {
      const Buffer x = random({N, K}, 0, dtype), weight = random({O, K}, 1, dtype),
                   dy = random({N, O}, 2, dtype), preactivation = random({N, O}, 3, dtype, 4.0);
      for (Activation activation : kActivations) {
        Matrix dpre(dy);
        for (index_t i = 0; i < N * O; ++i) dpre.values[i] *= slope(activation, preactivation[i]);
        on_every_isa_for(dtype, [&] {
          const Buffer dx({N, K}, dtype), dweight({O, K}), dbias({O});
          linear_backward({.dy = dy.view(),
                           .x = x.view(),
                           .weight = weight.view(),
                           .preactivation = preactivation.view(),
                           .dx = dx.view(),
                           .dweight = dweight.view(),
                           .dbias = dbias.view(),
                           .activation = activation},
                          Context::current());
          expect_close(dx, dpre * Matrix(weight), tolerance_of(dtype, O), "dx");
          expect_close(dweight, dpre.transposed() * Matrix(x), tolerance_of(dtype, N), "dweight");
          expect_close(dbias, dpre.sum_of_rows(), tolerance_of(dtype, N), "dbias");
        });
      }
    }
  }
}

TEST(Linear, WeightsOfAnotherTypeThanTheRowsEqualDouble) {
  for (auto [N, K, O] : {Shape{21, 67, 50}, Shape{20, 68, 52}}) {
    for (const auto& [dtype, weight_type] : kTypePairs) {
      const Buffer x = random({N, K}, 0, dtype), weight = random({O, K}, 1, weight_type),
                   bias = random({O}, 2, weight_type), dy = random({N, O}, 3, dtype);
      const Matrix truth = (Matrix(x) * Matrix(weight).transposed()).plus_to_each_row(bias);
      on_every_isa_for(dtype, weight_type, [&] {
        const Buffer y({N, O}, dtype), dx({N, K}, dtype), dweight({O, K}, weight_type);
        linear_forward({.x = x.view(), .weight = weight.view(), .bias = bias.view(), .y = y.view()},
                       Context::current());
        linear_backward({.dy = dy.view(),
                         .x = x.view(),
                         .weight = weight.view(),
                         .dx = dx.view(),
                         .dweight = dweight.view()},
                        Context::current());
        // A float32 weight is rounded to 16 bits where the rows have them.
        expect_close(y, truth, tolerance_of(dtype, K, 2), "y");
        expect_close(dx, Matrix(dy) * Matrix(weight), tolerance_of(dtype, O, 2), "dx");
        expect_close(dweight, Matrix(dy).transposed() * Matrix(x), tolerance_of(weight_type, N),
                     "dweight");
      });
    }
  }
}

TEST(Linear, RowsMayBeApart) {
  const index_t N = 18, K = 35, O = 20, wide = 64;
  const Buffer x = random({N, wide}, 0), weight = random({O, K}, 1);
  Matrix used(N, K);
  for (index_t n = 0; n < N; ++n)
    for (index_t k = 0; k < K; ++k) used(n, k) = x[n * wide + k];
  const Matrix truth = used * Matrix(weight).transposed();
  on_every_isa([&] {
    const Buffer y({N, wide});
    TensorView x_view = x.view(), y_view = y.view();
    x_view.shape[1] = K;
    y_view.shape[1] = O;
    linear_forward({.x = x_view, .weight = weight.view(), .y = y_view}, Context::current());
    for (index_t n = 0; n < N; ++n) {
      for (index_t o = 0; o < O; ++o) EXPECT_NEAR(y[n * wide + o], truth(n, o), 1e-5);
      for (index_t o = O; o < wide; ++o) EXPECT_TRUE(std::isnan(y[n * wide + o]));
    }
  });
}

TEST(Linear, GradientsOfNoRowsAreZero) {
  const Buffer x({0, 5}), weight = random({3, 5}, 0), dy({0, 3});
  on_every_isa([&] {
    const Buffer dweight({3, 5}), dbias({3});
    linear_backward({.dy = dy.view(),
                     .x = x.view(),
                     .weight = weight.view(),
                     .dweight = dweight.view(),
                     .dbias = dbias.view()},
                    Context::current());
    for (index_t i = 0; i < 15; ++i) EXPECT_EQ(dweight[i], 0.0);
    for (index_t i = 0; i < 3; ++i) EXPECT_EQ(dbias[i], 0.0);
  });
}

TEST(Linear, OneThreadAndTwoGiveTheSameBits) {
  const index_t N = 150, K = 70, O = 530;
  for (DType dtype : kFloatTypes) {
    const Buffer x = random({N, K}, 0, dtype), weight = random({O, K}, 1, dtype),
                 dy = random({N, O}, 2, dtype);
    expect_same_bits_for_one_and_two_threads([&] {
      const Buffer y({N, O}, dtype), pre({N, O}, dtype), dx({N, K}, dtype), dweight({O, K}),
          dbias({O});
      linear_forward({.x = x.view(),
                      .weight = weight.view(),
                      .y = y.view(),
                      .preactivation = pre.view(),
                      .activation = Activation::gelu},
                     Context::current());
      linear_backward({.dy = dy.view(),
                       .x = x.view(),
                       .weight = weight.view(),
                       .preactivation = pre.view(),
                       .dx = dx.view(),
                       .dweight = dweight.view(),
                       .dbias = dbias.view(),
                       .activation = Activation::gelu},
                      Context::current());
      return std::vector<Buffer>{y, dx, dweight, dbias};
    });
  }
}

TEST(Linear, AWrongArgumentIsNamed) {
  const Buffer x({4, 17}), weight({5, 18}), bias({6}), y({4, 5});
  LinearForward args{.x = x.view(), .weight = weight.view(), .y = y.view()};
  EXPECT_EQ(message_of([&] { linear_forward(args, Context::current()); }),
            "linear: weight has shape [5, 18], expected 17 in dimension 1 as in x");
  args.weight.shape[1] = 17;
  args.weight.strides[0] = 17;
  args.bias = bias.view();
  EXPECT_EQ(message_of([&] { linear_forward(args, Context::current()); }),
            "linear: bias has shape [6], expected 5 in dimension 0 as in weight");
}

}  // namespace
}  // namespace fusedlm::test
