// Linear + cross-entropy in chunks of rows: logits of a chunk by the packed product, then each
// row's loss and, in place, the gradient of its logits, then at once that chunk's share of dx,
// dweight and dbias. The whole logits never exist, and the forward leaves nothing for the backward
// to recompute.

#include "fusedlm/linear_cross_entropy.h"

#include "cpu/gemm_views.h"

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
Row reduce_row(const LinearCrossEntropy& a, float* row, index_t V) {
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
      for (index_t i = j; i < V; ++i) rest = row[i] > rest || row[i] != row[i] ? row[i] : rest;
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

// l -> gradient of the loss with respect to the logits, in place: as bfloat16 in the first half of
// the row's memory where the products that follow are bfloat16. An element is read before it is
// overwritten.
template <class T>
void slope_row(const LinearCrossEntropy& a, float* row, index_t V, index_t target, float lse,
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
  const Vec at_target(row[target]);
  const Vec hit = uncapped(slope(at_target, Vec(w)) - Vec(scale * (1.0f - e) * w), at_target);
  const auto body = [&](index_t j, auto... n) {
    const Vec l = Vec::load(row + j, n...);
    uncapped(slope(l, weights ? Vec::load(weights + j, n...) : Vec(1.0f)), l).store(out + j, n...);
  };
  for_each_vec(V, body, body);
  out[target] = from_float<T>(reduce_max(hit));
}

}  // namespace

void linear_cross_entropy(const LinearCrossEntropy& a, Context& ctx) {
  const index_t N = a.x.shape[0], C = a.x.shape[1], V = a.weight.shape[0];
  const int64_t* targets = a.targets.as<int64_t>();
  const bool low = a.x.dtype == DType::bfloat16, each = a.reduction == Reduction::none;
  const bool gradients = a.dx.defined() || a.dweight.defined() || a.dbias.defined();
  const DType slopes_dtype = a.x.dtype;
  Workspace& ws = ctx.workspace();
  double row_weights = 0.0, all_weights = static_cast<double>(V);
  for (index_t n = 0; n < N; ++n) {
    if (targets[n] != a.ignore_index) row_weights += class_weight_of(a, targets[n]);
  }
  if (a.class_weight.defined()) {
    all_weights = 0.0;
    for (index_t v = 0; v < V; ++v) all_weights += a.class_weight.as<float>()[v];
  }
  const auto mean_scale =
      static_cast<float>(a.reduction == Reduction::mean ? 1.0 / row_weights : 1.0);
  const index_t most = max_of(kLeastRows, kChunkBytes / (V * 4));
  const index_t chunk = max_of(1, ceil_div(N, max_of(1, ceil_div(N, most))));
  float* logits = ws.take<float>(chunk * V);
  float* losses = each ? a.loss.as<float>() : ws.take<float>(N);
  float* bias_part = a.dbias.defined() ? ws.take<float>(V) : nullptr;
  if (a.dbias.defined()) __builtin_memset(a.dbias.data, 0, static_cast<size_t>(V) * sizeof(float));
  if (a.dweight.defined() && N == 0)
    __builtin_memset(a.dweight.data, 0, static_cast<size_t>(V * C) * sizeof(float));
  for (index_t n0 = 0; n0 < N; n0 += chunk) {
    const index_t rows = min_of(chunk, N - n0);
    TensorView x = a.x;
    x.shape[0] = rows;
    x.data = static_cast<char*>(a.x.data) + n0 * a.x.strides[0] * size_of(a.x.dtype);
    TensorView l(logits, DType::float32, {rows, V});
    Gemm forward = product(matrix_of(x), matrix_of(a.weight).transposed(), l, C, low);
    if (a.bias.defined()) forward.bias = a.bias.data, forward.bias_dtype = a.bias.dtype;
    gemm(forward, ctx);
    parallel_for(rows, [&](index_t r, int) {
      const index_t n = n0 + r, target = targets[n];
      float* row = logits + r * V;
      if (target == a.ignore_index) {
        losses[n] = 0.0f;
        if (gradients) __builtin_memset(row, 0, static_cast<size_t>(V) * sizeof(float));
        return;
      }
      const Row reduced = reduce_row(a, row, V);
      const float lse = reduced.maximum + __builtin_logf(reduced.sum),
                  w = class_weight_of(a, target);
      const float e = a.label_smoothing;
      float loss = (1.0f - e) * w * (lse - row[target]) + a.z_loss * w * lse * lse;
      if (e > 0)
        loss +=
            e / static_cast<float>(V) * (static_cast<float>(all_weights) * lse - reduced.weighted);
      losses[n] = loss;
      if (!gradients) return;
      const float scale = each ? a.row_grad.as<float>()[n] : mean_scale;
      const auto weights_sum = static_cast<float>(all_weights);
      switch_float(slopes_dtype, [&](auto type) {
        slope_row<decltype(type)>(a, row, V, target, lse, weights_sum, scale);
      });
    });
    if (!gradients) continue;
    TensorView slopes = l;
    slopes.dtype = slopes_dtype;
    slopes.strides[0] = V * (4 / size_of(slopes_dtype));
    if (a.dx.defined()) {
      TensorView dx = a.dx;
      dx.shape[0] = rows;
      dx.data = static_cast<char*>(a.dx.data) + n0 * a.dx.strides[0] * size_of(a.dx.dtype);
      gemm(product(matrix_of(slopes), matrix_of(a.weight), dx, V, low), ctx);
    }
    if (a.dweight.defined()) {
      Gemm share = product(matrix_of(slopes).transposed(), matrix_of(x), a.dweight, rows, low);
      share.accumulate = n0 > 0;
      gemm(share, ctx);
    }
    if (a.dbias.defined()) {
      column_sums(slopes, bias_part, ctx);
      float* total = a.dbias.as<float>();
      const auto add = [&](index_t c, auto... n) {
        (Vec::load(total + c, n...) + Vec::load(bias_part + c, n...)).store(total + c, n...);
      };
      for_each_vec(V, add, add);
    }
  }
  if (each) return;
  double total = 0.0;
  for (index_t n = 0; n < N; ++n) total += losses[n];
  *a.loss.as<float>() =
      static_cast<float>(a.reduction == Reduction::mean ? total / row_weights : total);
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
