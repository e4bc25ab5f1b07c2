// Attention of a few queries over a long cache (decoding): keys and values are read where they lie,
// once, for all queries of a head. A task is one head of one sequence; the softmax is the online
// one of the tiled kernel, a row at a time.

#include "cpu/attention_tiles.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

struct Sizes {
  index_t H, R, D, out_stride, max_T, row;  // row: scores of one query, in whole tiles
};

struct Scratch {
  float *scores, *out, *bias, *keep;
};

// Scores -> weights in place for one stretch of one query; returns the factor for what was summed
// before.
float softmax_row(const AttentionOptions& o, const float* bias, const float* keep, index_t count,
                  float* row, float& maximum, float& sum) {
  const Vec scale(o.softcap > 0 ? o.scale / o.softcap : o.scale * kLog2E);
  const Vec cap(o.softcap * kLog2E), by_log(kLog2E);
  Vec top(maximum);
  for (index_t j = 0; j < count; j += Vec::size) {
    Vec x = Vec::load(row + j) * scale;
    if (o.softcap > 0) x = cap * tanh(x);
    if (bias) x = fma(Vec::load(bias + j), by_log, x);
    x.store(row + j);
    top = max(top, x);
  }
  const float before = maximum;
  maximum = reduce_max(top);
  const Vec shift(maximum == -kInfinity ? 0.0f : maximum);
  Vec total;
  for (index_t j = 0; j < count; j += Vec::size) {
    Vec p = exp2(Vec::load(row + j) - shift);
    total = total + p;
    if (keep) p = p * Vec::load(keep + j);
    p.store(row + j);
  }
  const float factor = before == maximum ? 1.0f : reduce_max(exp2(Vec(before) - shift));
  sum = sum * factor + reduce_sum(total);
  return factor;
}

// All queries of one head share one pass over its keys and values.
template <class T>
void head_of(const AttentionForward& a, const Sizes& z, const Sequence& s, index_t h,
             const Scratch& w) {
  const AttentionOptions& o = a.options;
  const Matrix query = head_rows(a.query, s.b, s.q0, h), key = head_rows(a.key, s.b, s.k0, h / z.R),
               value = head_rows(a.value, s.b, s.k0, h / z.R);
  const index_t low = s.T ? visible(o, s, 0).low / kTileK * kTileK : 0,
                high = s.T ? visible(o, s, s.T - 1).high : 0;
  for (index_t j = low; j < high; ++j) {
    const T* k = static_cast<const T*>(key.data) + j * key.row_stride;
    for (index_t t = 0; t < s.T; ++t) {
      const T* q = static_cast<const T*>(query.data) + t * query.row_stride;
      Vec dot;
      const auto add = [&](index_t d, auto... n) {
        dot = fma(Vec::load(q + d, n...), Vec::load(k + d, n...), dot);
      };
      for_each_vec(z.D, add, add);
      w.scores[t * z.row + j] = reduce_sum(dot);
    }
  }
  __builtin_memset(w.out, 0, static_cast<size_t>(s.T * z.out_stride) * sizeof(float));
  for (index_t t = 0; t < s.T; ++t) {
    float maximum = -kInfinity, sum = 0.0f, *sums = w.out + t * z.out_stride;
    for (index_t j0 = low; j0 < high; j0 += kTileK) {
      const index_t used = min_of(kTileK, high - j0),
                    columns = ceil_div(used, Vec::size) * Vec::size;
      float* row = w.scores + t * z.row + j0;
      for (index_t j = used; j < columns; ++j) row[j] = 0.0f;
      const bool biased = score_bias(o, s, h, t, j0, columns, w.bias);
      if (o.dropout_p > 0) dropout_keep(o, s, h, z.H, t, j0, columns, w.keep);
      const float factor =
          softmax_row(o, biased ? w.bias : nullptr, o.dropout_p > 0 ? w.keep : nullptr, columns,
                      row, maximum, sum);
      if (factor != 1.0f) {
        for (index_t d = 0; d < z.out_stride; d += Vec::size) {
          (Vec::load(sums + d) * Vec(factor)).store(sums + d);
        }
      }
      for (index_t j = 0; j < used; ++j) {
        const T* v = static_cast<const T*>(value.data) + (j0 + j) * value.row_stride;
        const auto add = [&](index_t d, auto... n) {
          fma(Vec(row[j]), Vec::load(v + d, n...), Vec::load(sums + d)).store(sums + d);
        };
        for_each_vec(z.D, add, add);
      }
    }
    write_out(a, s, h, t, sums, maximum, sum);
  }
}

}  // namespace

void attention_of_few_queries(const AttentionForward& a, Context& ctx) {
  Workspace& ws = ctx.workspace();
  const AttentionOptions& o = a.options;
  Sizes z{};
  z.H = a.query.shape[2], z.R = z.H / a.key.shape[2], z.D = a.query.shape[3];
  z.out_stride = ceil_div(z.D, Vec::size) * Vec::size;
  const index_t count = sequence_count(o, a.query.shape[0]), threads = num_threads();
  index_t max_S = 0;
  for (index_t i = 0; i < count; ++i) {
    const Sequence s = sequence_at(o, a.query, a.key, i);
    z.max_T = max_of(z.max_T, s.T);
    max_S = max_of(max_S, s.S);
  }
  z.row = ceil_div(max_S, kTileK) * kTileK;
  auto* scratch = ws.take<Scratch>(threads);
  for (index_t i = 0; i < threads; ++i) {
    scratch[i] = {ws.take<float>(z.max_T * z.row), ws.take<float>(z.max_T * z.out_stride),
                  ws.take<float>(kTileK), ws.take<float>(kTileK)};
  }
  parallel_for(count * z.H, [&](index_t task, int thread) {
    const Sequence s = sequence_at(o, a.query, a.key, task / z.H);
    switch_float(a.query.dtype,
                 [&](auto type) { head_of<decltype(type)>(a, z, s, task % z.H, scratch[thread]); });
  });
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
