// Rotary position embedding: one pass over the heads of a token, whose row of cosines and sines
// stays in L1. The backward is the same rotation with the sign of the sine changed.

#include "fusedlm/rope.h"

#include "cpu/switch.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

// 16 tokens of 12 heads of 64 are about 50 KB: microseconds, long beside the start of a task.
constexpr index_t kTokens = 16;

template <class T>
void rotate_halves(const T* x, const float* cos, const float* sin, Vec sign, index_t half, T* y) {
  const auto body = [&](index_t i, auto... n) {
    const Vec a = Vec::load(x + i, n...), b = Vec::load(x + half + i, n...);
    const Vec c = Vec::load(cos + i, n...), s = Vec::load(sin + i, n...) * sign;
    (a * c - b * s).store(y + i, n...);
    (b * c + a * s).store(y + half + i, n...);
  };
  for_each_vec(half, body, body);
}

template <class T>
void rotate_neighbours(const T* x, const float* cos, const float* sin, float sign, index_t half,
                       T* y) {
  for (index_t i = 0; i < half; ++i) {
    const float a = to_float(x[2 * i]), b = to_float(x[2 * i + 1]), c = cos[i], s = sin[i] * sign;
    y[2 * i] = from_float<T>(a * c - b * s);
    y[2 * i + 1] = from_float<T>(b * c + a * s);
  }
}

}  // namespace

void rope(const Rope& a, Context&) {
  const index_t T = a.x.shape[1], H = a.x.shape[2], D = a.x.shape[3], half = a.cos.shape[1];
  const index_t tokens = a.x.shape[0] * T;
  const float sign = a.inverse ? -1.0f : 1.0f;
  switch_float(a.x.dtype, [&](auto type) {
    using E = decltype(type);
    parallel_for(ceil_div(tokens, kTokens), [&](index_t task, int) {
      const index_t end = min_of(tokens, (task + 1) * kTokens);
      for (index_t n = task * kTokens; n < end; ++n) {
        const index_t b = n / T, t = n % T;
        const index_t at =
            a.positions.defined()
                ? a.positions.as<int64_t>()[b * a.positions.strides[0] + t * a.positions.strides[1]]
                : t;
        const float *cos = a.cos.as<float>() + at * half, *sin = a.sin.as<float>() + at * half;
        for (index_t h = 0; h < H; ++h) {
          const E* x = a.x.as<E>() + b * a.x.strides[0] + t * a.x.strides[1] + h * a.x.strides[2];
          E* y = a.y.as<E>() + b * a.y.strides[0] + t * a.y.strides[1] + h * a.y.strides[2];
          if (a.interleaved) {
            rotate_neighbours(x, cos, sin, sign, half, y);
          } else {
            rotate_halves(x, cos, sin, Vec(sign), half, y);
          }
          for (index_t d = 2 * half; d < D; ++d) y[d] = x[d];
        }
      }
    });
  });
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
