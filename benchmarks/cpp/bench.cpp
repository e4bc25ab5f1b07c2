// GEMM and attention without Python, as a percentage of the machine's own register peak:
//   cmake -S . -B build/cpp -DFUSEDLM_BENCHMARKS=ON && cmake --build build/cpp -j
//   build/cpp/fusedlm_bench [gemm] [attention] [threads=2] [seconds=1]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "fusedlm/attention.h"
#include "fusedlm/linear.h"
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

}  // namespace

int main(int count, char** arguments) {
  bool gemm = false, attention = false, all = true;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    if (argument == "gemm") {
      gemm = true, all = false;
    } else if (argument == "attention") {
      attention = true, all = false;
    } else if (argument.rfind("threads=", 0) == 0) {
      set_num_threads(std::atoi(arguments[i] + 8));
    } else if (argument.rfind("seconds=", 0) == 0) {
      seconds_each = std::atof(arguments[i] + 8);
    } else {
      std::fprintf(stderr, "usage: %s [gemm] [attention] [threads=N] [seconds=S]\n", arguments[0]);
      return 2;
    }
  }
  for (const DType dtype : {DType::bfloat16, DType::float32}) {
    const double roof = roof_of(dtype);
    std::printf("%s, %s, %d threads: roof %.1f GFLOP/s\n", name_of(current_isa()), name_of(dtype),
                num_threads(), roof / 1e9);
    if (gemm || all) bench_gemm(dtype, roof);
    if (attention || all) bench_attention(dtype, roof);
  }
}
