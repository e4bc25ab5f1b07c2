// Between the products of a decoder's step: norms, and from a row of qkv to turned queries and the cache.
// A row is some KiB and stays in L1. The rows of a decoding step make one task, which the caller's own
// thread does; a prompt's are dealt in blocks.

#include "engine/decoder_kernels.h"

#include "cpu/switch.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

using engine::HeadsToCache;
using engine::NormRows;

// A few microseconds of work: what a task must be to be worth its start.
constexpr index_t kRowsPerTask = 16;

template <class Y>
void norm_row(const NormRows& a, index_t row) {
  const index_t C = a.x.shape[1];
  const float *x = a.x.row<float>(row), *weight = a.weights.weight, *bias = a.weights.bias;
  float mean = 0.0f;
  if (a.norm == Norm::layer_norm) {
    Vec sum;
    const auto add = [&](index_t c, auto... n) { sum = sum + Vec::load(x + c, n...); };
    for_each_vec(C, add, add);
    mean = reduce_sum(sum) / static_cast<float>(C);
  }
  Vec squares;
  for_each_vec(
      C,
      [&](index_t c) {
        const Vec d = Vec::load(x + c) - Vec(mean);
        squares = fma(d, d, squares);
      },
      [&](index_t c, index_t n) {
        for (index_t i = c; i < c + n; ++i) {  // lanes behind the end would count mean^2
          const Vec d = Vec::load(x + i, 1) - Vec::load(&mean, 1);
          squares = fma(d, d, squares);
        }
      });
  const Vec scale(1.0f / __builtin_sqrtf(reduce_sum(squares) / static_cast<float>(C) + a.eps));
  Y* y = a.y.row<Y>(row);
  const auto write = [&](index_t c, auto... n) {
    Vec v = (Vec::load(x + c, n...) - Vec(mean)) * scale * Vec::load(weight + c, n...);
    if (bias) v = v + Vec::load(bias + c, n...);
    v.store(y + c, n...);
  };
  for_each_vec(C, write, write);
}

FUSEDLM_VEC Vec swap_neighbours(Vec x) {
#if defined(FUSEDLM_VEC_AVX512)
  return _mm512_permute_ps(x.v, 0xb1);
#elif defined(FUSEDLM_VEC_AVX2)
  return _mm256_permute_ps(x.v, 0xb1);
#else
  return Vec::Lanes{x.v[1], x.v[0], x.v[3], x.v[2]};
#endif
}

// One head in float32: its norm, and its turn to position `at`.
void turn_head(const HeadsToCache& a, const float* norm, index_t at, index_t D, float* head) {
  if (norm) {
    Vec squares;
    const auto add = [&](index_t d, auto... n) {
      const Vec x = Vec::load(head + d, n...);
      squares = fma(x, x, squares);
    };
    for_each_vec(D, add, add);
    const Vec scale(1.0f / __builtin_sqrtf(reduce_sum(squares) / static_cast<float>(D) + a.eps));
    const auto write = [&](index_t d, auto... n) {
      (Vec::load(head + d, n...) * scale * Vec::load(norm + d, n...)).store(head + d, n...);
    };
    for_each_vec(D, write, write);
  }
  if (!a.rope.cos) return;
  if (a.rope.interleaved) {
    const float *cos = a.rope.cos + at * D, *sin = a.rope.sin + at * D;
    const auto turn = [&](index_t d, auto... n) {
      const Vec x = Vec::load(head + d, n...);
      fma(swap_neighbours(x), Vec::load(sin + d, n...), x * Vec::load(cos + d, n...))
          .store(head + d, n...);
    };
    for_each_vec(D, turn, turn);
    return;
  }
  const index_t half = D / 2;
  const float *cos = a.rope.cos + at * half, *sin = a.rope.sin + at * half;
  const auto turn = [&](index_t d, auto... n) {
    const Vec x = Vec::load(head + d, n...), y = Vec::load(head + half + d, n...);
    const Vec c = Vec::load(cos + d, n...), s = Vec::load(sin + d, n...);
    (x * c - y * s).store(head + d, n...);
    (y * c + x * s).store(head + half + d, n...);
  };
  for_each_vec(half, turn, turn);
}

template <class X, class Kept>
void row_to_cache(const HeadsToCache& a, index_t row, float* head) {
  const index_t G = a.key.shape[2], D = a.qkv.shape[2], H = a.qkv.shape[1] - 2 * G;
  X* x = a.qkv.row<X>(row);
  const index_t at = a.positions[row], slot = a.slots[row] * G * D;
  Kept *key = a.key.as<Kept>() + slot, *value = a.value.as<Kept>() + slot;
  for (index_t h = 0; h < H; ++h) {
    convert_row(x + h * D, D, head);
    turn_head(a, a.query_norm, at, D, head);
    convert_row(head, D, x + h * D);
  }
  for (index_t g = 0; g < G; ++g) {
    convert_row(x + (H + g) * D, D, head);
    turn_head(a, a.key_norm, at, D, head);
    convert_row(head, D, key + g * D);
  }
  convert_row(x + (H + G) * D, G * D, value);
}

}  // namespace

void norm_rows(const NormRows& a, Context&) {
  const index_t N = a.x.shape[0];
  switch_float(a.y.dtype, [&](auto y) {
    parallel_for(ceil_div(N, kRowsPerTask), [&](index_t task, int) {
      const index_t end = min_of(N, (task + 1) * kRowsPerTask);
      for (index_t row = task * kRowsPerTask; row < end; ++row) norm_row<decltype(y)>(a, row);
    });
  });
}

void heads_to_cache(const HeadsToCache& a, Context& ctx) {
  const index_t N = a.qkv.shape[0], D = a.qkv.shape[2];
  float* heads = ctx.workspace().take<float>(num_threads() * D);
  switch_float(a.qkv.dtype, [&](auto x) {
    switch_float(a.key.dtype, [&](auto kept) {
      parallel_for(ceil_div(N, kRowsPerTask), [&](index_t task, int thread) {
        const index_t end = min_of(N, (task + 1) * kRowsPerTask);
        for (index_t row = task * kRowsPerTask; row < end; ++row) {
          row_to_cache<decltype(x), decltype(kept)>(a, row, heads + thread * D);
        }
      });
    });
  });
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
