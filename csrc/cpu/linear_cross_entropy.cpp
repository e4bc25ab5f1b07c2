// Linear + cross-entropy in chunks of rows: logits of a chunk by the packed product, then each
// row's loss and, in place, the gradient of its logits, then at once that chunk's share of dx,
// dweight and dbias. The whole logits never exist, and the forward leaves nothing for the backward
// to recompute.

#include "fusedlm/linear_cross_entropy.h"

#include "cpu/gemm_views.h"
#include "fusedlm/arena.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

// Logits of a chunk, at most: a quarter of what the whole logits and their gradient take at N =
// 1024 and V = 50257. Fewer chunks pack the weights less often and add to dweight less often.
constexpr index_t kChunkBytes = index_t{104} << 20;
constexpr index_t kLeastRows = 64;

FUSEDLM_VEC float class_weight_of(const LinearCrossEntropy& a, index_t target) {
  return a.class_weight.defined() ? a.class_weight.as<float>()[target] : 1.0f;
}

struct Row {
  float maximum, sum, weighted;  // weighted: sum_j w[j] l[j], for label smoothing
};

// logits -> l in place, with what the loss needs of all of them.
template <class L>
Row reduce_row(const LinearCrossEntropy& a, L* row, index_t V) {
  const Vec cap(a.softcap), inverse(a.softcap > 0 ? 1.0f / a.softcap : 0.0f);
  const float* weights = a.class_weight.defined() ? a.class_weight.as<float>() : nullptr;
  const bool smooth = a.label_smoothing > 0;
  Vec top(-__builtin_inff()), weighted;
  float rest = -__builtin_inff();
  const auto first = [&](index_t j, auto... n) {
    Vec l = Vec::load(row + j, n...);
    if (a.softcap > 0) {
      l = cap * tanh(l * inverse);
      l.store(row + j, n...);
    }
    if (smooth) weighted = weights ? fma(Vec::load(weights + j, n...), l, weighted) : weighted + l;
    if constexpr (sizeof...(n) == 0) {
      top = max(top, l);
    } else {  // the lanes behind the end are 0, not logits
      for (index_t i = j; i < V; ++i) {
        const float x = to_float(row[i]);
        rest = x > rest || x != x ? x : rest;
      }
    }
  };
  for_each_vec(V, first, first);
  float maximum = reduce_max(top);
  if (rest > maximum || rest != rest) maximum = rest;
  const Vec shift(maximum);
  Vec sum;
  float tail = 0.0f;
  const auto second = [&](index_t j, auto... n) {
    const Vec e = exp(Vec::load(row + j, n...) - shift);
    if constexpr (sizeof...(n) == 0) {
      sum = sum + e;
    } else {
      float parts[Vec::size];
      e.store(parts);
      for (index_t i = 0; i < V - j; ++i) tail += parts[i];
    }
  };
  for_each_vec(V, second, second);
  return {maximum, reduce_sum(sum) + tail, reduce_sum(weighted)};
}

// l -> gradient of the loss with respect to the logits, in place: as bfloat16 where the products that
// follow are bfloat16, in the first half of the row's memory where l is float32. An element is read before
// it is overwritten.
template <class T, class L>
void slope_row(const LinearCrossEntropy& a, L* row, index_t V, index_t target, float lse,
               float all_weights, float scale) {
  const float w = class_weight_of(a, target), e = a.label_smoothing,
              each = e / static_cast<float>(V);
  const Vec by_softmax(scale * ((1.0f - e) * w + each * all_weights + 2.0f * a.z_loss * w * lse));
  const Vec by_class(-scale * each), shift(lse), inverse(a.softcap > 0 ? 1.0f / a.softcap : 0.0f);
  const float* weights = a.class_weight.defined() ? a.class_weight.as<float>() : nullptr;
  T* out = reinterpret_cast<T*>(row);
  const auto slope = [&](Vec l, Vec weight) {
    Vec d = by_softmax * exp(l - shift);
    if (e > 0) d = fma(by_class, weight, d);
    return d;
  };
  const auto uncapped = [&](Vec d, Vec l) {
    if (a.softcap > 0) {
      const Vec u = l * inverse;
      d = d * (Vec(1.0f) - u * u);
    }
    return d;
  };
  const Vec at_target(to_float(row[target]));
  const Vec hit = uncapped(slope(at_target, Vec(w)) - Vec(scale * (1.0f - e) * w), at_target);
  const auto body = [&](index_t j, auto... n) {
    const Vec l = Vec::load(row + j, n...);
    uncapped(slope(l, weights ? Vec::load(weights + j, n...) : Vec(1.0f)), l).store(out + j, n...);
  };
  for_each_vec(V, body, body);
  out[target] = from_float<T>(reduce_max(hit));
}

// Sums over class weights: of the rows that count, and of all classes.
struct Weights {
  double rows = 0.0, classes = 0.0;
};

Weights sum_weights(const LinearCrossEntropy& a) {
  Weights sums;
  const int64_t* targets = a.targets.as<int64_t>();
  for (index_t n = 0; n < a.x.shape[0]; ++n) {
    if (targets[n] != a.ignore_index) sums.rows += class_weight_of(a, targets[n]);
  }
  const index_t V = a.weight.shape[0];
  if (!a.class_weight.defined()) {
    sums.classes = static_cast<double>(V);
  } else {
    for (index_t v = 0; v < V; ++v) sums.classes += a.class_weight.as<float>()[v];
  }
  return sums;
}

// Logits (of dtype L) of row n -> its loss and, if wanted, the gradient of its logits (as T) in place.
template <class T, class L>
void finish_row(const LinearCrossEntropy& a, const Weights& sums, index_t n, L* row, bool gradients,
                float* losses) {
  const index_t V = a.weight.shape[0], target = a.targets.as<int64_t>()[n];
  if (target == a.ignore_index) {
    losses[n] = 0.0f;
    if (gradients) __builtin_memset(row, 0, static_cast<size_t>(V) * sizeof(L));
    return;
  }
  const Row reduced = reduce_row(a, row, V);
  const float lse = reduced.maximum + __builtin_logf(reduced.sum), w = class_weight_of(a, target);
  const auto classes = static_cast<float>(sums.classes);
  const float e = a.label_smoothing;
  losses[n] = (1.0f - e) * w * (lse - to_float(row[target])) + a.z_loss * w * lse * lse;
  if (e > 0) losses[n] += e / static_cast<float>(V) * (classes * lse - reduced.weighted);
  if (!gradients) return;
  const float scale = a.reduction == Reduction::none   ? a.row_grad.as<float>()[n]
                      : a.reduction == Reduction::mean ? static_cast<float>(1.0 / sums.rows)
                                                       : 1.0f;
  slope_row<T>(a, row, V, target, lse, classes, scale);
}

void add_columns(const TensorView& rows, float* part, float* total, Context& ctx) {
  column_sums(rows, part, ctx);
  const auto add = [&](index_t c, auto... n) {
    (Vec::load(total + c, n...) + Vec::load(part + c, n...)).store(total + c, n...);
  };
  for_each_vec(rows.shape[1], add, add);
}

}  // namespace

void linear_cross_entropy(const LinearCrossEntropy& a, Context& ctx) {
  const index_t N = a.x.shape[0], C = a.x.shape[1], V = a.weight.shape[0];
  const bool low = a.x.dtype == DType::bfloat16;
  const bool gradients = a.dx.defined() || a.dweight.defined() || a.dbias.defined();
  // A capped logit is written back, and would be rounded twice.
  const DType logits_dtype = low && a.softcap == 0.0f ? DType::bfloat16 : DType::float32;
  Workspace& ws = ctx.workspace();
  const Weights sums = sum_weights(a);
  const index_t most = max_of(kLeastRows, kChunkBytes / (V * size_of(logits_dtype)));
  const index_t chunk = max_of(1, ceil_div(N, max_of(1, ceil_div(N, most))));
  // From the arena: what the backward makes of a step may lie there next.
  const ArenaBlock memory(static_cast<size_t>(chunk * V * size_of(logits_dtype)));
  float* losses = a.reduction == Reduction::none ? a.loss.as<float>() : ws.take<float>(N);
  float* bias_part = a.dbias.defined() ? ws.take<float>(V) : nullptr;
  if (a.dbias.defined()) __builtin_memset(a.dbias.data, 0, static_cast<size_t>(V) * sizeof(float));
  // Shares of several chunks add up in float32.
  TensorView dweight = a.dweight;
  if (dweight.defined() && dweight.dtype != DType::float32 && chunk < N) {
    dweight = TensorView(ws.take<float>(V * C), DType::float32, {V, C});
  }
  if (dweight.defined() && N == 0) {
    __builtin_memset(dweight.data, 0, static_cast<size_t>(V * C * size_of(dweight.dtype)));
  }
  for (index_t n0 = 0; n0 < N; n0 += chunk) {
    const index_t rows = min_of(chunk, N - n0);
    const TensorView x = rows_of(a.x, n0, rows), logits(memory.data, logits_dtype, {rows, V});
    Gemm forward = product(matrix_of(x), matrix_of(a.weight).transposed(), logits, C, low);
    if (a.bias.defined()) forward.bias = a.bias.data, forward.bias_dtype = a.bias.dtype;
    gemm(forward, ctx);
    switch_float(a.x.dtype, [&](auto slope) {
      switch_float(logits_dtype, [&](auto logit) {
        using L = decltype(logit);
        parallel_for(rows, [&](index_t r, int) {
          finish_row<decltype(slope)>(a, sums, n0 + r, logits.row<L>(r), gradients, losses);
        });
      });
    });
    if (!gradients) continue;
    TensorView slopes = logits;
    slopes.dtype = a.x.dtype;
    slopes.strides[0] = V * (size_of(logits_dtype) / size_of(slopes.dtype));
    if (a.dx.defined()) {
      gemm(product(matrix_of(slopes), matrix_of(a.weight), rows_of(a.dx, n0, rows), V, low), ctx);
    }
    if (dweight.defined()) {
      Gemm share = product(matrix_of(slopes).transposed(), matrix_of(x), dweight, rows, low);
      share.accumulate = n0 > 0;
      gemm(share, ctx);
    }
    if (a.dbias.defined()) add_columns(slopes, bias_part, a.dbias.as<float>(), ctx);
  }
  if (dweight.defined() && dweight.data != a.dweight.data) round_rows(dweight, a.dweight);
  if (a.reduction == Reduction::none) return;
  double total = 0.0;
  for (index_t n = 0; n < N; ++n) total += losses[n];
  *a.loss.as<float>() =
      static_cast<float>(a.reduction == Reduction::mean ? total / sums.rows : total);
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
