// The feed-forward block, plain and gated, against double.

#include "fusedlm/ffn.h"

#include "support.h"

namespace fusedlm::test {
namespace {

struct Case {
  const char* name;
  Activation activation;
  bool gated;
};
constexpr Case kCases[] = {{"relu", Activation::relu, false},
                           {"gelu", Activation::gelu, false},
                           {"gelu_tanh", Activation::gelu_tanh, false},
                           {"swiglu", Activation::silu, true},
                           {"geglu", Activation::gelu, true}};
constexpr index_t N = 53, C = 37, F = 101;

struct Inputs {
  Buffer x, residual, dy, up_weight, gate_weight, down_weight, up_bias, gate_bias, down_bias;
  explicit Inputs(DType dtype)
      : x(random({N, C}, 0, dtype)),
        residual(random({N, C}, 1, dtype)),
        dy(random({N, C}, 2, dtype)),
        up_weight(random({F, C}, 3, dtype, 0.3)),
        gate_weight(random({F, C}, 4, dtype, 0.3)),
        down_weight(random({C, F}, 5, dtype, 0.3)),
        up_bias(random({F}, 6, dtype)),
        gate_bias(random({F}, 7, dtype)),
        down_bias(random({C}, 8, dtype)) {}
};

struct Outputs {
  Buffer up, gate, y, dx, dup_weight, dup_bias, dgate_weight, dgate_bias, ddown_weight, ddown_bias;
  explicit Outputs(DType dtype)
      : up({N, F}, dtype),
        gate({N, F}, dtype),
        y({N, C}, dtype),
        dx({N, C}, dtype),
        dup_weight({F, C}),
        dup_bias({F}),
        dgate_weight({F, C}),
        dgate_bias({F}),
        ddown_weight({C, F}),
        ddown_bias({C}) {}
};

Outputs run(const Case& c, const Inputs& in, DType dtype) {
  Outputs o(dtype);
  const auto if_gated = [&](const Buffer& b) { return c.gated ? b.view() : TensorView(); };
  ffn_forward({.x = in.x.view(),
               .up_weight = in.up_weight.view(),
               .up_bias = in.up_bias.view(),
               .gate_weight = if_gated(in.gate_weight),
               .gate_bias = if_gated(in.gate_bias),
               .down_weight = in.down_weight.view(),
               .down_bias = in.down_bias.view(),
               .residual = in.residual.view(),
               .up = o.up.view(),
               .gate = if_gated(o.gate),
               .y = o.y.view(),
               .activation = c.activation},
              Context::current());
  ffn_backward({.dy = in.dy.view(),
                .x = in.x.view(),
                .up_weight = in.up_weight.view(),
                .gate_weight = if_gated(in.gate_weight),
                .down_weight = in.down_weight.view(),
                .up = o.up.view(),
                .gate = if_gated(o.gate),
                .dx = o.dx.view(),
                .dup_weight = o.dup_weight.view(),
                .dup_bias = o.dup_bias.view(),
                .dgate_weight = if_gated(o.dgate_weight),
                .dgate_bias = if_gated(o.dgate_bias),
                .ddown_weight = o.ddown_weight.view(),
                .ddown_bias = o.ddown_bias.view(),
                .activation = c.activation},
               Context::current());
  return o;
}

void expect_forward_equals_double(const Case& c, const Inputs& in, const Outputs& o, DType dtype) {
  const Matrix x(in.x);
  const Matrix up = (x * Matrix(in.up_weight).transposed()).plus_to_each_row(in.up_bias);
  const Matrix gate = (x * Matrix(in.gate_weight).transposed()).plus_to_each_row(in.gate_bias);
  Matrix hidden = up;
  for (index_t i = 0; i < N * F; ++i) {
    const double u = up.values[i], g = gate.values[i];
    hidden.values[i] = c.gated ? activate(c.activation, g) * u : activate(c.activation, u);
  }
  Matrix y = (hidden * Matrix(in.down_weight).transposed()).plus_to_each_row(in.down_bias);
  for (index_t i = 0; i < N * C; ++i) y.values[i] += in.residual[i];
  expect_close(o.up, up, tolerance_of(dtype, C), "up");
  if (c.gated) expect_close(o.gate, gate, tolerance_of(dtype, C), "gate");
  expect_close(o.y, y, tolerance_of(dtype, F, 2), "y");  // rounded: what goes down, and y
}

// From the u and g that the forward kept.
void expect_backward_equals_double(const Case& c, const Inputs& in, const Outputs& o, DType dtype) {
  const Matrix x(in.x), dy(in.dy);
  Matrix hidden(N, F), dup = dy * Matrix(in.down_weight), dgate(N, F);
  for (index_t i = 0; i < N * F; ++i) {
    const double u = o.up[i], g = c.gated ? o.gate[i] : 0.0, dh = dup.values[i];
    hidden.values[i] = c.gated ? activate(c.activation, g) * u : activate(c.activation, u);
    dup.values[i] = dh * (c.gated ? activate(c.activation, g) : slope(c.activation, u));
    dgate.values[i] = c.gated ? dh * u * slope(c.activation, g) : 0.0;
  }
  Matrix dx = dup * Matrix(in.up_weight);
  const Matrix through_gate = dgate * Matrix(in.gate_weight);
  for (index_t i = 0; i < N * C; ++i) dx.values[i] += through_gate.values[i];
  // Rounded are dh, its products with the slopes, and dx.
  const double tolerance = tolerance_of(dtype, F, 3);
  expect_close(o.dx, dx, tolerance, "dx");
  expect_close(o.dup_weight, dup.transposed() * x, tolerance, "dup_weight");
  expect_close(o.dup_bias, dup.sum_of_rows(), tolerance, "dup_bias");
  expect_close(o.ddown_weight, dy.transposed() * hidden, tolerance_of(dtype, N), "ddown_weight");
  expect_close(o.ddown_bias, dy.sum_of_rows(), tolerance_of(DType::float32, N), "ddown_bias");
  if (!c.gated) return;
  expect_close(o.dgate_weight, dgate.transposed() * x, tolerance, "dgate_weight");
  expect_close(o.dgate_bias, dgate.sum_of_rows(), tolerance, "dgate_bias");
}

TEST(Ffn, ForwardAndBackwardEqualDouble) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    for (DType dtype : all_float_types()) {
      SCOPED_TRACE(name_of(dtype));
      const Inputs in(dtype);
      on_every_isa_for(dtype, [&] {
        const Outputs o = run(c, in, dtype);
        expect_forward_equals_double(c, in, o, dtype);
        expect_backward_equals_double(c, in, o, dtype);
      });
    }
  }
}

TEST(Ffn, OneThreadAndTwoGiveTheSameBits) {
  const Inputs in(DType::bfloat16);
  expect_same_bits_for_one_and_two_threads([&] {
    const Outputs o = run(kCases[3], in, DType::bfloat16);
    return std::vector<Buffer>{o.y, o.dx, o.dup_weight, o.dup_bias, o.dgate_weight, o.ddown_weight};
  });
}

TEST(Ffn, AWrongArgumentIsNamed) {
  const Buffer x({4, 8}), up_weight({6, 8}), down_weight({8, 7}), bias({6});
  FfnForward args{.x = x.view(), .up_weight = up_weight.view(), .down_weight = down_weight.view()};
  const auto message = [&] { return message_of([&] { ffn_forward(args, Context::current()); }); };
  EXPECT_EQ(message(),
            "ffn: down_weight has shape [8, 7], expected 6 in dimension 1 as in "
            "up_weight");
  const Buffer fitting({8, 6}), up({4, 6});
  args.down_weight = fitting.view();
  args.up = up.view();
  args.gate_bias = bias.view();
  EXPECT_EQ(message(), "ffn: gate_bias is given without gate_weight");
  args.gate_bias = {};
  args.gate = up.view();
  EXPECT_EQ(message(), "ffn: gate is given without gate_weight");
}

TEST(FfnBackward, AWrongArgumentIsNamed) {
  const Buffer x({4, 8}), weight({6, 8}), down_weight({8, 6}), up({4, 6});
  FfnBackward args{.dy = x.view(),
                   .x = x.view(),
                   .up_weight = weight.view(),
                   .down_weight = down_weight.view(),
                   .up = up.view(),
                   .dx = x.view()};
  const auto message = [&] { return message_of([&] { ffn_backward(args, Context::current()); }); };
  args.ddown_weight = weight.view();
  EXPECT_EQ(message(),
            "ffn_backward: ddown_weight has shape [6, 8], expected 8 in dimension 0 as in x");
  args.dgate_weight = weight.view();
  EXPECT_EQ(message(), "ffn_backward: dgate_weight is given without gate_weight");
}

}  // namespace
}  // namespace fusedlm::test
