// Attention of few queries (decoding). Keys and values are read where they lie, dense or in pages. A task
// is one query token, the heads that share a key-value head, and a part of the keys; parts begin at fixed
// places, and their softmaxes are added up in order. So a long context keeps all threads busy, and what a
// query gets depends neither on the queries beside it nor on the number of threads.

#include "cpu/attention_tiles.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

// Heads that share a reading of values: with kSums vectors each they fill half the registers.
constexpr int kHeads = 4;
constexpr int kSums = kRegisters == 32 ? 4 : 2;
// Partial results kept at a time; sequences beyond it wait for the next round.
constexpr index_t kPartialBytes = index_t{4} << 20;
// Additions of partial results that are worth a task.
constexpr index_t kMergedFloats = 1 << 15;

struct Sizes {
  index_t H, G, R, D, padded_D, max_T, parts;
};

// What one thread needs: R queries, scores of R heads, bias and dropout of one.
struct Scratch {
  float *query, *scores, *bias, *keep, *sums;
};

// Of each (token, head, part): the sums [padded_D], not divided yet, the maximum in powers of 2, and the
// sum of weights.
struct Partial {
  float *sums, *maximum, *total;
};

/// How a query is multiplied with keys K: `step` elements at a time.
template <class K>
struct FloatDot {
  using Element = float;
  static constexpr index_t step = Vec::size;
  template <class... N>
  FUSEDLM_VEC static Vec key(const K* p, N... n) {
    return Vec::load(p, n...);
  }
  FUSEDLM_VEC static Vec query(const float* p) { return Vec::load(p); }
  FUSEDLM_VEC static Vec add(Vec q, Vec k, Vec sum) { return fma(q, k, sum); }
};
#if defined(FUSEDLM_ISA_AVX512_BF16)
struct PairDot {
  using Element = bfloat16;
  static constexpr index_t step = 2 * Vec::size;
  FUSEDLM_VEC static __m512i key(const bfloat16* p) { return _mm512_loadu_si512(p); }
  FUSEDLM_VEC static __m512i key(const bfloat16* p, index_t n) {
    return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint32_t{1} << n) - 1), p);
  }
  FUSEDLM_VEC static __m512i query(const bfloat16* p) { return _mm512_loadu_si512(p); }
  FUSEDLM_VEC static Vec add(__m512i q, __m512i k, Vec sum) {
    return _mm512_dpbf16_ps(sum.v, (__m512bh)q, (__m512bh)k);
  }
};
template <class K>
using DotFor = std::conditional_t<sizeof(K) == 2, PairDot, FloatDot<K>>;
#else
template <class K>
using DotFor = FloatDot<K>;
#endif
constexpr index_t kLongestStep = 2 * Vec::size;

// Asks for a row before it is needed: rows lie apart, where the machine's own prefetching finds no stream.
template <class K>
FUSEDLM_VEC void fetch_row(const K* row, index_t D) {
  constexpr index_t kLine = 64 / sizeof(K);
  for (index_t d = 0; d < D; d += kLine) __builtin_prefetch(row + d, 0, 2);
}

// Scores of one query with `columns` keys, a whole number of vectors. Meanwhile `count` other rows are asked for.
template <class K>
void scores_of(const float* query, const K* const* keys, index_t columns, index_t D, float* scores,
               const K* const* ahead, index_t count) {
  using Dot = DotFor<K>;
  const auto* q = reinterpret_cast<const typename Dot::Element*>(query);
  index_t asked = 0;
  for (index_t j = 0; j < columns; j += Vec::size) {
    for (; asked < count * (j + Vec::size) / columns; ++asked) fetch_row(ahead[asked], D);
    Vec sums[Vec::size];
    index_t d = 0;
    for (; d + Dot::step <= D; d += Dot::step) {
      const auto part = Dot::query(q + d);
#pragma GCC unroll 16
      for (int i = 0; i < Vec::size; ++i) {
        sums[i] = Dot::add(part, Dot::key(keys[j + i] + d), sums[i]);
      }
    }
    if (d < D) {
      const auto part = Dot::query(q + d);
#pragma GCC unroll 16
      for (int i = 0; i < Vec::size; ++i) {
        sums[i] = Dot::add(part, Dot::key(keys[j + i] + d, D - d), sums[i]);
      }
    }
    reduce_sums(sums).store(scores + j);
  }
}

// Scores -> weights in place; returns the sum of all before dropout.
float softmax_row(const AttentionOptions& o, const float* bias, const float* keep, index_t columns,
                  float* row, float& maximum) {
  const Vec scale(o.softcap > 0 ? o.scale / o.softcap : o.scale * kLog2E);
  const Vec cap(o.softcap * kLog2E), by_log(kLog2E);
  Vec top(-kInfinity);
  for (index_t j = 0; j < columns; j += Vec::size) {
    Vec x = Vec::load(row + j) * scale;
    if (o.softcap > 0) x = cap * tanh(x);
    if (bias) x = fma(Vec::load(bias + j), by_log, x);
    x.store(row + j);
    top = max(top, x);
  }
  maximum = reduce_max(top);
  const Vec shift(maximum == -kInfinity ? 0.0f : maximum);
  Vec total;
  for (index_t j = 0; j < columns; j += Vec::size) {
    Vec p = exp2(Vec::load(row + j) - shift);
    total = total + p;
    if (keep) p = p * Vec::load(keep + j);
    p.store(row + j);
  }
  return reduce_sum(total);
}

// sums[r][d0 ...] = weights[r] * values over `count` keys, of kSums vectors of each value. Meanwhile rows from
// `ahead` on, if any, are asked for.
template <int heads, bool whole, class K>
void weigh_values(const float* weights, const K* const* values, index_t count, index_t d0,
                  index_t D, float* sums, index_t sums_step, const K* const* ahead) {
  Vec acc[heads][kSums];
  for (index_t j = 0; j < count; ++j) {
    if (ahead) fetch_row(ahead[j], D);
    const K* row = values[j] + d0;
    Vec v[kSums];
#pragma GCC unroll 4
    for (int c = 0; c < kSums; ++c) {
      const index_t left = D - d0 - c * Vec::size;
      if (whole || left >= Vec::size) {
        v[c] = Vec::load(row + c * Vec::size);
      } else if (left > 0) {
        v[c] = Vec::load(row + c * Vec::size, left);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < heads; ++r) {
      const Vec weight(weights[r * kTileK + j]);
#pragma GCC unroll 4
      for (int c = 0; c < kSums; ++c) acc[r][c] = fma(weight, v[c], acc[r][c]);
    }
  }
  for (int r = 0; r < heads; ++r) {
    for (int c = 0; c < kSums && d0 + c * Vec::size < D; ++c) {
      acc[r][c].store(sums + r * sums_step + d0 + c * Vec::size);
    }
  }
}

template <class K>
using WeighValues = void (*)(const float*, const K* const*, index_t, index_t, index_t, float*,
                             index_t, const K* const*);
template <class K, bool whole>
constexpr WeighValues<K> kWeighValues[kHeads] = {
    weigh_values<1, whole, K>, weigh_values<2, whole, K>, weigh_values<3, whole, K>,
    weigh_values<4, whole, K>};

// Where the keys of a task lie: of part `part` of key-value head g.
struct Task {
  Sequence s;
  index_t t, g, part;
};

// What query token t sees of the keys of a task: [j0, j0 + used).
struct Used {
  index_t j0, used;
  Used(const AttentionOptions& o, const Task& task) : j0(task.part * kTileK), used(0) {
    if (task.t >= task.s.T) return;
    const Visible v = visible(o, task.s, task.t);
    if (v.low < j0 + kTileK) used = max_of(0, min_of(kTileK, v.high - j0));
  }
};

// The R heads of query token t that read key-value head g, against part `part`. Values are on their way
// while keys are multiplied, and the keys of the task that follows while values are.
template <class Q, class K>
void multiply_part(const AttentionForward& a, const Sizes& z, const Task& task, const Task& next,
                   index_t row, const Scratch& w, const Partial& out) {
  const AttentionOptions& o = a.options;
  const auto& [s, t, g, part] = task;
  const auto [j0, used] = Used(o, task);
  if (used == 0) return;
  const index_t columns = ceil_div(used, Vec::size) * Vec::size;
  const K *keys[kTileK], *values[kTileK];
  locate_rows(a.key, o, s, g, j0, used, keys);
  locate_rows(a.value, o, s, g, j0, used, values);
  for (index_t j = used; j < columns; ++j) keys[j] = keys[used - 1];

  const Matrix query = head_rows(a.query, s.b, s.q0 + t, g * z.R);
  const index_t step = a.query.strides[2], first = (row * z.H + g * z.R) * z.parts + part;
  for (index_t r = 0; r < z.R; ++r) {
    auto* q = reinterpret_cast<typename DotFor<K>::Element*>(w.query);
    const Q* from = static_cast<const Q*>(query.data) + r * step;
    const auto copy = [&](index_t d, auto... n) { Vec::load(from + d, n...).store(q + d); };
    for_each_vec(z.D, copy, copy);
    float* scores = w.scores + r * kTileK;
    const index_t asked = r * used / z.R;
    scores_of<K>(w.query, keys, columns, z.D, scores, values + asked, (r + 1) * used / z.R - asked);
    const index_t h = g * z.R + r;
    const bool biased = score_bias(o, s, h, t, j0, columns, w.bias);
    if (o.dropout_p > 0) dropout_keep(o, s, h, z.H, t, j0, columns, w.keep);
    const index_t at = first + r * z.parts;
    out.total[at] = softmax_row(o, biased ? w.bias : nullptr, o.dropout_p > 0 ? w.keep : nullptr,
                                columns, scores, out.maximum[at]);
  }
  const auto [next_j0, next_used] = Used(o, next);
  if (next_used > 0) locate_rows(a.key, o, next.s, next.g, next_j0, next_used, keys);
  for (index_t j = next_used; j < used && j > 0; ++j) keys[j] = keys[next_used - 1];
  const K* const* ahead = next_used > 0 ? keys : nullptr;
  for (index_t r = 0; r < z.R; r += kHeads) {
    const index_t heads = min_of(kHeads, z.R - r);
    for (index_t d = 0; d < z.D; d += kSums * Vec::size) {
      const bool whole = d + kSums * Vec::size <= z.D;
      const auto weigh =
          whole ? kWeighValues<K, true>[heads - 1] : kWeighValues<K, false>[heads - 1];
      weigh(w.scores + r * kTileK, values, used, d, z.D,
            out.sums + (first + r * z.parts) * z.padded_D, z.parts * z.padded_D, ahead);
      ahead = nullptr;
    }
  }
}

// Parts of one head of one token, in their order -> out and lse.
void merge_parts(const AttentionForward& a, const Sizes& z, const Sequence& s, index_t t, index_t h,
                 index_t row, const Partial& partial, float* sums) {
  const Visible v = visible(a.options, s, t);
  const index_t at = (row * z.H + h) * z.parts;
  const index_t begin = v.low / kTileK, end = v.high > v.low ? ceil_div(v.high, kTileK) : begin;
  float maximum = -kInfinity, total = 0.0f;
  for (index_t p = begin; p < end; ++p) {
    const float top = partial.maximum[at + p];
    maximum = top > maximum || top != top ? top : maximum;
  }
  const float shift = maximum == -kInfinity ? 0.0f : maximum;
  __builtin_memset(sums, 0, static_cast<size_t>(z.padded_D) * sizeof(float));
  for (index_t p = begin; p < end; ++p) {
    const Vec factor = exp2(Vec(partial.maximum[at + p] - shift));
    const float* from = partial.sums + (at + p) * z.padded_D;
    for (index_t d = 0; d < z.padded_D; d += Vec::size) {
      fma(Vec::load(from + d), factor, Vec::load(sums + d)).store(sums + d);
    }
    total += reduce_max(factor) * partial.total[at + p];
  }
  write_out(a, s, h, t, sums, maximum, total);
}

}  // namespace

void attention_of_few_queries(const AttentionForward& a, index_t max_T, index_t max_S,
                              Context& ctx) {
  Workspace& ws = ctx.workspace();
  const AttentionOptions& o = a.options;
  Sizes z{};
  z.H = a.query.shape[2], z.G = a.key.shape[2], z.R = z.H / z.G, z.D = a.query.shape[3];
  z.padded_D = ceil_div(z.D, Vec::size) * Vec::size;
  z.max_T = max_T;
  z.parts = max_of(1, ceil_div(max_S, kTileK));
  const index_t count = sequence_count(o, a.query.shape[0]), threads = num_threads();
  const index_t heads = z.max_T * z.H, sequence_floats = heads * z.parts * (z.padded_D + 2);
  const index_t some = min_of(count, max_of(1, kPartialBytes / (sequence_floats * 4)));
  const index_t partials = some * heads * z.parts;
  const Partial partial{ws.take<float>(partials * z.padded_D), ws.take<float>(partials),
                        ws.take<float>(partials)};
  auto* scratch = ws.take<Scratch>(threads);
  for (index_t i = 0; i < threads; ++i) {
    scratch[i] = {ws.take<float>(z.padded_D + kLongestStep), ws.take<float>(z.R * kTileK),
                  ws.take<float>(kTileK), ws.take<float>(kTileK), ws.take<float>(z.padded_D)};
    const size_t bytes = static_cast<size_t>(z.padded_D + kLongestStep) * sizeof(float);
    __builtin_memset(scratch[i].query, 0, bytes);  // what lies behind D
  }
  for (index_t first = 0; first < count; first += some) {
    const index_t now = min_of(some, count - first), sequence_tasks = z.parts * z.G * z.max_T;
    const index_t tasks = now * sequence_tasks;
    const auto task_of = [&](index_t n) -> Task {
      const index_t t = n % z.max_T, g = n / z.max_T % z.G, part = n / (z.max_T * z.G) % z.parts;
      return {sequence_at(o, a.query, a.key, first + n / sequence_tasks), t, g, part};
    };
    parallel_for_stretches(tasks, [&](index_t begin, index_t end, int thread) {
      Task task = task_of(begin);
      for (index_t n = begin; n < end; ++n) {
        const Task next = task_of(min_of(n + 1, tasks - 1));
        const index_t row = n / sequence_tasks * z.max_T + task.t;
        switch_float(a.query.dtype, [&](auto q) {
          switch_float(a.key.dtype, [&](auto k) {
            multiply_part<decltype(q), decltype(k)>(a, z, task, next, row, scratch[thread],
                                                    partial);
          });
        });
        task = next;
      }
    });
    const index_t together = max_of(1, kMergedFloats / (z.parts * z.padded_D));
    parallel_for(ceil_div(now * heads, together), [&](index_t task, int thread) {
      const index_t end = min_of(now * heads, (task + 1) * together);
      for (index_t n = task * together; n < end; ++n) {
        const index_t row = n / z.H, t = row % z.max_T;
        const Sequence s = sequence_at(o, a.query, a.key, first + row / z.max_T);
        if (t < s.T) merge_parts(a, z, s, t, n % z.H, row, partial, scratch[thread].sums);
      }
    });
  }
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
