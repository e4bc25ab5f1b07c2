// Products with quantised weights against double, without Python.

#include "fusedlm/quantized_linear.h"

#include <thread>

#include "support.h"

namespace fusedlm::test {
namespace {

constexpr WeightFormat kFormats[] = {
    WeightFormat::float32, WeightFormat::float16, WeightFormat::bfloat16,
    WeightFormat::int8,    WeightFormat::q8_0,    WeightFormat::q4_0,
    WeightFormat::q4_1,    WeightFormat::q4_k,    WeightFormat::q6_k};

// Nothing here has a CUDA kernel, so not under the emulator.
template <class Body>
void on_every_cpu_isa(Body&& body) {
  on_every_isa([&] {
    if (current_isa() != Isa::simt) body();
  });
}

/// A matrix that owns its bytes, which end where the vector does: reading behind them is seen by a
/// sanitizer.
struct Held {
  std::vector<uint8_t> data;
  std::vector<float> scales;
  WeightFormat format;
  index_t rows, cols;

  Held(const Buffer& from, WeightFormat format)
      : format(format), rows(from.view().shape[0]), cols(from.view().shape[1]) {
    data.resize(static_cast<size_t>(row_bytes(format, cols) * rows));
    scales.resize(static_cast<size_t>(rows));
    quantize({.x = from.view(), .format = format, .data = data.data(), .scales = scales.data()},
             Context::current());
  }
  Weight view() const {
    return {
        .data = data.data(), .scales = scales.data(), .format = format, .rows = rows, .cols = cols};
  }
  Matrix values() const {
    Buffer out({rows, cols});
    dequantize({.weight = view(), .first = 0, .out = out.view()}, Context::current());
    return Matrix(out);
  }
};

QuantizedLinear call(const Buffer& x, std::initializer_list<const Held*> weights, const Buffer& y) {
  QuantizedLinear args;
  args.x = x.view();
  args.y = y.view();
  args.count = 0;
  for (const Held* weight : weights) args.weights[args.count++] = weight->view();
  return args;
}

Buffer product(const Buffer& x, const Held& weight) {
  Buffer y({x.view().shape[0], weight.rows});
  quantized_linear(call(x, {&weight}, y), Context::current());
  return y;
}

TEST(Weight, FormatsHaveNamesAndSizes) {
  for (WeightFormat format : kFormats) EXPECT_EQ(weight_format_from_name(name_of(format)), format);
  EXPECT_EQ(row_bytes(WeightFormat::q4_1, 96), 60);
  EXPECT_EQ(row_bytes(WeightFormat::q6_k, 512), 420);
  EXPECT_EQ(row_bytes(WeightFormat::bfloat16, 7), 14);
  EXPECT_EQ(message_of([] { weight_format_from_name("q5_9"); }).substr(0, 48),
            "weight format is 'q5_9', expected one of float32");
}

TEST(Weight, EveryInstructionSetDequantisesToTheSameBits) {
  for (WeightFormat format : kFormats) {
    SCOPED_TRACE(name_of(format));
    const Held weight(random({5, 512}, 1), format);
    const Matrix first = weight.values();
    on_every_cpu_isa([&] { EXPECT_EQ(weight.values().values, first.values); });
  }
}

TEST(QuantizedLinear, FewRowsAndManyAreProducts) {
  on_every_cpu_isa([&] {
    for (WeightFormat format : kFormats) {
      SCOPED_TRACE(name_of(format));
      for (index_t rows : {1, 3, 16, 17, 50}) {
        const index_t K = block_size(format) > 1 ? 3 * block_size(format) : 61;
        const Held weight(random({33, K}, 2), format);
        const Buffer x = random({rows, K}, 3);
        // 8 bits of x, where integers are multiplied.
        const double tolerance = rows <= 16 ? 0.02 : 1e-5;
        expect_close(product(x, weight), Matrix(x) * weight.values().transposed(), tolerance, "y");
      }
    }
  });
}

TEST(QuantizedLinear, ARowIsTheSameBitsAloneAndAmongOthers) {
  on_every_cpu_isa([&] {
    for (WeightFormat format : kFormats) {
      SCOPED_TRACE(name_of(format));
      const Held weight(random({70, 256}, 4), format);
      const Buffer x = random({16, 256}, 5), all = product(x, weight);
      for (index_t m = 0; m < 16; ++m) {
        Buffer row({1, 256});
        for (index_t k = 0; k < 256; ++k) row.set(k, x[m * 256 + k]);
        const Buffer alone = product(row, weight);
        for (index_t n = 0; n < 70; ++n) ASSERT_EQ(alone[n], all[m * 70 + n]);
      }
    }
  });
}

TEST(QuantizedLinear, OneThreadAndTwoGiveTheSameBits) {
  const Held weight(random({900, 256}, 6), WeightFormat::q4_k);
  for (index_t rows : {1, 40}) {
    const Buffer x = random({rows, 256}, 7);
    const int before = num_threads();
    on_every_cpu_isa([&] {
      set_num_threads(1);
      const Buffer one = product(x, weight);
      set_num_threads(2);
      EXPECT_TRUE(one == product(x, weight));
    });
    set_num_threads(before);
  }
}

TEST(QuantizedLinear, ThreadsMayShareWeights) {
  const Held weight(random({300, 256}, 8), WeightFormat::q4_1);
  const Buffer x = random({4, 256}, 9), expected = product(x, weight);
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) EXPECT_TRUE(product(x, weight) == expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(QuantizedLinear, AGatedPairWithResidualInPlace) {
  const Held gate(random({65, 64}, 10), WeightFormat::q8_0),
      up(random({65, 64}, 11), WeightFormat::int8);
  on_every_cpu_isa([&] {
    for (index_t rows : {2, 20}) {
      const Buffer x = random({rows, 64}, 12);
      Buffer y = random({rows, 65}, 13);
      Matrix truth(y);
      const Matrix g = Matrix(x) * gate.values().transposed(),
                   u = Matrix(x) * up.values().transposed();
      for (size_t i = 0; i < truth.values.size(); ++i) {
        truth.values[i] += activate(Activation::silu, g.values[i]) * u.values[i];
      }
      QuantizedLinear args = call(x, {&gate, &up}, y);
      args.gated = true;
      args.activation = Activation::silu;
      args.residual = y.view();
      quantized_linear(args, Context::current());
      expect_close(y, truth, rows <= 16 ? 0.02 : 1e-5, "y");
    }
  });
}

TEST(QuantizedLinear, NamesWhatDoesNotFit) {
  const Held weight(random({8, 64}, 14), WeightFormat::q4_0);
  const Buffer x = random({2, 96}, 15);
  Buffer y({2, 8});
  EXPECT_EQ(message_of([&] { quantized_linear(call(x, {&weight}, y), Context::current()); }),
            "quantized_linear: weights[0] has 64 columns, expected 96 as in x [2, 96]");
  QuantizedLinear args = call(x, {}, y);
  EXPECT_EQ(message_of([&] { quantized_linear(args, Context::current()); }),
            "quantized_linear: count is 0, expected 1 to 3");
  args.count = 1;
  args.weights[0] = {
      .data = weight.data.data(), .format = WeightFormat::q4_0, .rows = 8, .cols = 40};
  EXPECT_EQ(
      message_of([&] { quantized_linear(args, Context::current()); }),
      "quantized_linear: weights[0] has rows of 40 weights, expected a multiple of 32, the block "
      "of q4_0");
  args.weights[0] = {.data = nullptr, .format = WeightFormat::float32, .rows = 8, .cols = 96};
  EXPECT_EQ(message_of([&] { quantized_linear(args, Context::current()); }),
            "quantized_linear: weights[0] has no data");
}

}  // namespace
}  // namespace fusedlm::test
