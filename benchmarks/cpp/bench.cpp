// GEMM and attention without Python, as a percentage of the machine's own register peak, and products
// with quantised weights, as a percentage of what it reads from memory:
//   cmake -S . -B build/cpp -DFUSEDLM_BENCHMARKS=ON && cmake --build build/cpp -j
//   build/cpp/fusedlm_bench [gemm] [attention] [weights] [threads=2] [seconds=1]
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "fusedlm/arena.h"
#include "fusedlm/attention.h"
#include "fusedlm/linear.h"
#include "fusedlm/quantized_linear.h"
#include "fusedlm/roof.h"

using namespace fusedlm;

namespace {

double seconds_each = 1.0;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A dense tensor of small random values.
struct Buffer {
  std::vector<char> bytes;
  TensorView view;
  Buffer(DType dtype, std::initializer_list<index_t> dims) : view(nullptr, dtype, dims) {
    bytes.resize(static_cast<size_t>(view.numel() * size_of(dtype)));
    view.data = bytes.data();
    std::minstd_rand draw(1);
    std::uniform_real_distribution<float> value(-0.1f, 0.1f);
    for (index_t i = 0; i < view.numel(); ++i) {
      const float x = value(draw);
      uint32_t bits;
      std::memcpy(&bits, &x, sizeof bits);
      if (dtype == DType::float32) {
        view.as<float>()[i] = x;
      } else {
        view.as<bfloat16>()[i].bits = static_cast<uint16_t>(bits >> 16);
      }
    }
  }
};

template <class Fn>
void report(const char* name, double flops, double roof, Fn&& run) {
  run();
  std::vector<double> times;
  for (const double end = now() + seconds_each; now() < end || times.size() < 5;) {
    const double start = now();
    run();
    times.push_back(now() - start);
  }
  std::sort(times.begin(), times.end());
  const double best = times.front(), median = times[times.size() / 2];
  std::printf("  %-44s best %8.3f ms  median %8.3f ms  %6.1f GFLOP/s  %5.1f %% of the roof\n", name,
              best * 1e3, median * 1e3, flops / best / 1e9, 100.0 * flops / best / roof);
}

double roof_of(DType dtype) {
  double flops = 0;
  roof_measure({.dtype = dtype, .seconds = 0.3, .flops = &flops}, Context::current());
  return flops;
}

struct Shape {
  index_t N, K, O;
};

void bench_gemm(DType dtype, double roof) {
  Context& ctx = Context::current();
  // Rows, inputs and outputs of the products in a step of GPT-2 small and of a model of width 384.
  for (const Shape s : {Shape{1024, 768, 2304}, Shape{1024, 768, 768}, Shape{1024, 768, 3072},
                        Shape{1024, 3072, 768}, Shape{4096, 384, 1152}, Shape{4096, 384, 384},
                        Shape{4096, 384, 1536}, Shape{4096, 1536, 384}, Shape{1024, 768, 50257}}) {
    Buffer x(dtype, {s.N, s.K}), weight(DType::float32, {s.O, s.K}), y(dtype, {s.N, s.O});
    Buffer dweight(DType::float32, {s.O, s.K});
    const double flops = 2.0 * static_cast<double>(s.N) * static_cast<double>(s.K * s.O);
    const std::string shape =
        std::to_string(s.N) + " x " + std::to_string(s.K) + " x " + std::to_string(s.O);
    report(("forward " + shape).c_str(), flops, roof,
           [&] { linear_forward({.x = x.view, .weight = weight.view, .y = y.view}, ctx); });
    report(("dx      " + shape).c_str(), flops, roof, [&] {
      linear_backward({.dy = y.view, .x = x.view, .weight = weight.view, .dx = x.view}, ctx);
    });
    report(("dweight " + shape).c_str(), flops, roof, [&] {
      linear_backward({.dy = y.view, .x = x.view, .weight = weight.view, .dweight = dweight.view},
                      ctx);
    });
  }
}

void bench_attention(DType dtype, double roof) {
  Context& ctx = Context::current();
  struct Case {
    index_t B, T, H, D;
  };
  for (const Case c :
       {Case{1, 1024, 12, 64}, Case{8, 256, 6, 64}, Case{1, 4096, 8, 64}, Case{1, 2048, 16, 128}}) {
    const std::initializer_list<index_t> dims = {c.B, c.T, c.H, c.D};
    Buffer query(dtype, dims), key(dtype, dims), value(dtype, dims), out(dtype, dims);
    Buffer dout(dtype, dims), dquery(dtype, dims), dkey(dtype, dims), dvalue(dtype, dims);
    Buffer lse(DType::float32, {c.B, c.H, c.T});
    AttentionOptions options;
    options.causal = true;
    options.scale = 0.125f;
    // Two products forward and five backward, over the half that causality leaves.
    const double product =
        2.0 * static_cast<double>(c.B * c.H) * static_cast<double>(c.T * (c.T + 1) / 2 * c.D);
    const std::string shape = "B" + std::to_string(c.B) + " H" + std::to_string(c.H) + " T" +
                              std::to_string(c.T) + " D" + std::to_string(c.D);
    report(("attention forward " + shape).c_str(), 2 * product, roof, [&] {
      attention_forward({query.view, key.view, value.view, out.view, lse.view, options}, ctx);
    });
    report(("attention backward " + shape).c_str(), 5 * product, roof, [&] {
      attention_backward({dout.view, query.view, key.view, value.view, out.view, lse.view,
                          dquery.view, dkey.view, dvalue.view, options},
                         ctx);
    });
  }
}

// Matrices of a model with the shapes of SmolLM2-135M.
struct Shapes {
  index_t layers = 30, width = 576, kv = 192, ffn = 1536, vocab = 49152;
};

class Weights {
 public:
  Weights(const Shapes& s, WeightFormat format) : shapes_(s) {
    head_ = make(s.vocab, s.width, format);
    for (index_t l = 0; l < s.layers; ++l) {
      layers_.push_back({make(s.width, s.width, format), make(s.kv, s.width, format),
                         make(s.kv, s.width, format), make(s.width, s.width, format),
                         make(s.ffn, s.width, format), make(s.ffn, s.width, format),
                         make(s.width, s.ffn, format)});
    }
  }
  double bytes() const { return bytes_; }
  double weights() const { return weights_; }

  /// Every product of a step over `x` rows, but for attention; the head alone for the last row.
  void step(index_t rows, DType dtype) {
    Context& ctx = Context::current();
    Buffer x(dtype, {rows, shapes_.width}), hidden(dtype, {rows, shapes_.ffn}),
        qkv(dtype, {rows, shapes_.width + 2 * shapes_.kv});
    Buffer logits(DType::float32, {1, shapes_.vocab});
    const auto run = [&] {
      for (const Layer& w : layers_) {
        product(x.view, {w[0], w[1], w[2]}, 3, false, qkv.view, ctx);
        product(x.view, {w[3]}, 1, false, x.view, ctx);
        product(x.view, {w[4], w[5]}, 2, true, hidden.view, ctx);
        product(hidden.view, {w[6]}, 1, false, x.view, ctx);
      }
      TensorView last = x.view;
      last.shape[0] = 1;
      product(last, {head_}, 1, false, logits.view, ctx);
    };
    time_ = fastest(run);
  }
  double time() const { return time_; }
  /// The same as `step` by linear_forward, without the gate's activation; weights are bfloat16.
  double linear_time(index_t rows) const {
    Buffer x(DType::bfloat16, {rows, shapes_.width}), hidden(DType::bfloat16, {rows, shapes_.ffn});
    return fastest([&] {
      for (const Layer& layer : layers_) {
        for (const Weight& w : layer) {
          TensorView y = hidden.view, in = w.cols == shapes_.ffn ? hidden.view : x.view;
          y.shape[1] = w.rows;
          if (w.cols == shapes_.ffn) y = x.view;
          linear_forward(
              {.x = in,
               .weight = TensorView(const_cast<void*>(w.data), DType::bfloat16, {w.rows, w.cols}),
               .y = y},
              Context::current());
        }
      }
    });
  }

 private:
  using Layer = std::array<Weight, 7>;

  static double fastest(const std::function<void()>& run) {
    run();
    double best = 1e9;
    for (const double end = now() + seconds_each; now() < end;) {
      const double start = now();
      run();
      best = std::min(best, now() - start);
    }
    return best;
  }

  static void product(const TensorView& x, std::array<Weight, 3> w, int count, bool gated,
                      const TensorView& y, Context& ctx) {
    QuantizedLinear args{.x = x, .weights = w, .bias = {}, .count = count, .residual = {}, .y = y};
    args.gated = gated;
    if (gated) args.activation = Activation::silu;
    quantized_linear(args, ctx);
  }

  Weight make(index_t rows, index_t cols, WeightFormat format) {
    if (cols % block_size(format) != 0) format = WeightFormat::q8_0;  // 576 is no multiple of 256
    const Buffer from(DType::float32, {rows, cols});
    const auto& data = held_.emplace_back(static_cast<size_t>(row_bytes(format, cols) * rows));
    auto& scales = scales_.emplace_back(static_cast<size_t>(rows));
    quantize({.x = from.view, .format = format, .data = data.data, .scales = scales.data()},
             Context::current());
    bytes_ += static_cast<double>(data.bytes);
    weights_ += static_cast<double>(rows * cols);
    return {
        .data = data.data, .scales = scales.data(), .format = format, .rows = rows, .cols = cols};
  }

  Shapes shapes_;
  std::vector<Layer> layers_;
  Weight head_;
  std::deque<ArenaBlock> held_;  // in huge pages
  std::deque<std::vector<float>> scales_;
  double bytes_ = 0, weights_ = 0, time_ = 0;
};

void bench_weights() {
  double bandwidth = 0;
  bandwidth_measure({.bytes = index_t{256} << 20, .seconds = 1.0, .rate = &bandwidth},
                    Context::current());
  std::printf("%s, %d threads: %.1f GB/s from memory; products of a step, shapes of SmolLM2-135M\n",
              name_of(current_isa()), num_threads(), bandwidth / 1e9);
  const char* only = std::getenv("FUSEDLM_BENCH_FORMATS");  // "q4_1 int8"
  for (const char* name :
       {"q4_1", "q4_0", "q4_k", "q6_k", "q8_0", "int8", "bfloat16", "float16", "float32"}) {
    if (only && !std::strstr(only, name)) continue;
    Weights model({}, weight_format_from_name(name));
    std::printf("  %-9s %6.1f MB ", name, model.bytes() / 1e6);
    for (const index_t rows : {1, 2, 4, 8, 16}) {
      model.step(rows, DType::float32);
      std::printf("  %2d row%s %7.3f ms", static_cast<int>(rows), rows > 1 ? "s" : "",
                  model.time() * 1e3);
      if (rows == 1) {
        std::printf(" (%4.1f GB/s, %3.0f %%)", model.bytes() / model.time() / 1e9,
                    100 * model.bytes() / model.time() / bandwidth);
      }
    }
    model.step(512, DType::bfloat16);
    const double flops = 2 * 512 * (model.weights() - 49152.0 * 576);
    std::printf("  512 rows %7.1f ms (%.0f GFLOP/s)", model.time() * 1e3,
                flops / model.time() / 1e9);
    if (weight_format_from_name(name) == WeightFormat::bfloat16) {
      std::printf(", by linear_forward %.1f ms", model.linear_time(512) * 1e3);
    }
    std::printf("\n");
    std::fflush(stdout);
  }
}

}  // namespace

int main(int count, char** arguments) {
  bool gemm = false, attention = false, weights = false, all = true;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    if (argument == "gemm") {
      gemm = true, all = false;
    } else if (argument == "attention") {
      attention = true, all = false;
    } else if (argument == "weights") {
      weights = true, all = false;
    } else if (argument.rfind("threads=", 0) == 0) {
      set_num_threads(std::atoi(arguments[i] + 8));
    } else if (argument.rfind("seconds=", 0) == 0) {
      seconds_each = std::atof(arguments[i] + 8);
    } else {
      std::fprintf(stderr, "usage: %s [gemm] [attention] [weights] [threads=N] [seconds=S]\n",
                   arguments[0]);
      return 2;
    }
  }
  if (weights || all) bench_weights();
  if (!gemm && !attention && !all) return 0;
  for (const DType dtype : {DType::bfloat16, DType::float32}) {
    const double roof = roof_of(dtype);
    std::printf("%s, %s, %d threads: roof %.1f GFLOP/s\n", name_of(current_isa()), name_of(dtype),
                num_threads(), roof / 1e9);
    if (gemm || all) bench_gemm(dtype, roof);
    if (attention || all) bench_attention(dtype, roof);
  }
}
