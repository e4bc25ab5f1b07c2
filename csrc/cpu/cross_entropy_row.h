#pragma once
// What a row of logits loses and the gradient of it: shared by cross_entropy, which is given its logits,
// and linear_cross_entropy, which makes them a chunk at a time. fusedlm/cross_entropy.h has the formula.

#include "cpu/vec.h"
#include "fusedlm/cross_entropy.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

/// The loss as a row sees it.
struct RowLoss {
  float label_smoothing, z_loss, softcap;
  const float* weights;  // of the classes, or null
  float all_weights;     // their sum

  FUSEDLM_VEC float weight(index_t target) const { return weights ? weights[target] : 1.0f; }
};

/// Sums over class weights: of the rows that count, and of all classes.
struct WeightSums {
  double rows = 0.0, classes = 0.0;
};

inline WeightSums sum_weights(const TensorView& targets, const TensorView& class_weight, index_t V,
                              index_t ignore_index) {
  WeightSums sums;
  const float* weights = class_weight.defined() ? class_weight.as<float>() : nullptr;
  const int64_t* target = targets.as<int64_t>();
  for (index_t n = 0; n < targets.shape[0]; ++n) {
    if (target[n] != ignore_index) sums.rows += weights ? weights[target[n]] : 1.0f;
  }
  if (!weights) {
    sums.classes = static_cast<double>(V);
  } else {
    for (index_t v = 0; v < V; ++v) sums.classes += weights[v];
  }
  return sums;
}

/// `Args` have options and class_weight.
template <class Args>
RowLoss row_loss(const Args& a, const WeightSums& sums) {
  return {a.options.label_smoothing, a.options.z_loss, a.options.softcap,
          a.class_weight.defined() ? a.class_weight.template as<float>() : nullptr,
          static_cast<float>(sums.classes)};
}

/// What a row's loss counts for in the loss.
FUSEDLM_VEC float share_of_row(Reduction reduction, const WeightSums& sums) {
  return reduction == Reduction::mean ? static_cast<float>(1.0 / sums.rows) : 1.0f;
}

/// The loss of N rows, added in their order.
inline float loss_of_rows(Reduction reduction, const WeightSums& sums, const float* losses,
                          index_t N) {
  double total = 0.0;
  for (index_t n = 0; n < N; ++n) total += losses[n];
  return static_cast<float>(reduction == Reduction::mean ? total / sums.rows : total);
}

struct RowSums {
  float lse, weighted;  // weighted: sum_j w[j] l[j], for label smoothing
};

/// Where the logits of a row lie: in pieces of `width` columns, of which the last may be narrower. A
/// matrix in pieces is a sequence of matrices [rows, width], each contiguous; rows = 1 and width = V is
/// a plain row.
struct LogitRow {
  void* data;    // of the matrix
  index_t unit;  // bytes of an element, also where a smaller type is written over it
  index_t V, width;
  index_t rows = 1, row = 0;

  template <class T>
  T* at(index_t v0) const {  // the piece that starts with column v0
    const index_t elements = v0 * rows + row * min_of(width, V - v0);
    return reinterpret_cast<T*>(static_cast<char*>(data) + elements * unit);
  }
  template <class T>
  T& element(index_t v) const {
    return at<T>(v / width * width)[v % width];
  }
  template <class Body>
  void for_each_piece(Body&& body) const {
    for (index_t v0 = 0; v0 < V; v0 += width) body(v0, min_of(width, V - v0));
  }
};

template <class T>
LogitRow plain_row(const T* row, index_t V) {
  return {const_cast<T*>(row), sizeof(T), V, V};
}

/// With a softcap, l of the whole row goes to `capped` (which may be `row`); otherwise that is not used.
template <class L>
RowSums reduce_row(const RowLoss& loss, const LogitRow& row, const LogitRow& capped) {
  const Vec cap(loss.softcap), inverse(loss.softcap > 0 ? 1.0f / loss.softcap : 0.0f);
  const bool smooth = loss.label_smoothing > 0, caps = loss.softcap > 0;
  Vec top(-__builtin_inff()), weighted;
  float rest = -__builtin_inff();
  row.for_each_piece([&](index_t v0, index_t count) {
    const L* from = row.at<L>(v0);
    float* to = caps ? capped.at<float>(v0) : nullptr;
    const float* weights = loss.weights ? loss.weights + v0 : nullptr;
    const auto first = [&](index_t j, auto... n) {
      Vec l = Vec::load(from + j, n...);
      if (caps) {
        l = cap * tanh(l * inverse);
        l.store(to + j, n...);
      }
      if (smooth)
        weighted = weights ? fma(Vec::load(weights + j, n...), l, weighted) : weighted + l;
      if constexpr (sizeof...(n) == 0) {
        top = max(top, l);
      } else {  // the lanes behind the end are 0, not logits
        for (index_t i = j; i < count; ++i) {
          const float x = caps ? to[i] : to_float(from[i]);
          rest = x > rest || x != x ? x : rest;
        }
      }
    };
    for_each_vec(count, first, first);
  });
  float maximum = reduce_max(top);
  if (rest > maximum || rest != rest) maximum = rest;
  const Vec shift(maximum);
  Vec sum;
  float tail = 0.0f;
  const auto add_exponentials = [&](const auto* from, index_t count) {
    const auto second = [&](index_t j, auto... n) {
      const Vec e = exp(Vec::load(from + j, n...) - shift);
      if constexpr (sizeof...(n) == 0) {
        sum = sum + e;
      } else {
        float parts[Vec::size];
        e.store(parts);
        for (index_t i = 0; i < count - j; ++i) tail += parts[i];
      }
    };
    for_each_vec(count, second, second);
  };
  row.for_each_piece([&](index_t v0, index_t count) {
    if (caps) {
      add_exponentials(capped.at<float>(v0), count);
    } else {
      add_exponentials(row.at<L>(v0), count);
    }
  });
  return {maximum + __builtin_logf(reduce_sum(sum) + tail), reduce_sum(weighted)};
}

/// Logits -> l, as reduce_row leaves it.
template <class L>
void cap_row(const RowLoss& loss, const L* row, float* capped, index_t V) {
  const Vec cap(loss.softcap), inverse(1.0f / loss.softcap);
  const auto body = [&](index_t j, auto... n) {
    (cap * tanh(Vec::load(row + j, n...) * inverse)).store(capped + j, n...);
  };
  for_each_vec(V, body, body);
}

/// The row's loss from its sums and l[target].
FUSEDLM_VEC float loss_of_row(const RowLoss& loss, RowSums sums, float at_target, index_t target,
                              index_t V) {
  const float w = loss.weight(target), e = loss.label_smoothing, lse = sums.lse;
  float value = (1.0f - e) * w * (lse - at_target) + loss.z_loss * w * lse * lse;
  if (e > 0) value += e / static_cast<float>(V) * (loss.all_weights * lse - sums.weighted);
  return value;
}

/// l -> `scale` times the gradient of the loss with respect to the logits. `out` may be `row`, also as
/// bfloat16 over float32: an element is read before it is overwritten.
template <class T, class L>
void slope_row(const RowLoss& loss, const LogitRow& row, const LogitRow& out, index_t target,
               float lse, float scale) {
  const float w = loss.weight(target), e = loss.label_smoothing;
  const float each = e / static_cast<float>(row.V);
  const Vec by_softmax(scale *
                       ((1.0f - e) * w + each * loss.all_weights + 2.0f * loss.z_loss * w * lse));
  const Vec by_class(-scale * each), shift(lse);
  const Vec inverse(loss.softcap > 0 ? 1.0f / loss.softcap : 0.0f);
  const auto slope = [&](Vec l, Vec weight) {
    Vec d = by_softmax * exp(l - shift);
    if (e > 0) d = fma(by_class, weight, d);
    return d;
  };
  const auto uncapped = [&](Vec d, Vec l) {
    if (loss.softcap > 0) {
      const Vec u = l * inverse;
      d = d * (Vec(1.0f) - u * u);
    }
    return d;
  };
  const Vec at_target(to_float(row.element<L>(target)));
  const Vec hit = uncapped(slope(at_target, Vec(w)) - Vec(scale * (1.0f - e) * w), at_target);
  row.for_each_piece([&](index_t v0, index_t count) {
    const L* from = row.at<L>(v0);
    T* to = out.at<T>(v0);
    const float* weights = loss.weights ? loss.weights + v0 : nullptr;
    const auto body = [&](index_t j, auto... n) {
      const Vec l = Vec::load(from + j, n...);
      uncapped(slope(l, weights ? Vec::load(weights + j, n...) : Vec(1.0f)), l).store(to + j, n...);
    };
    for_each_vec(count, body, body);
  });
  out.element<T>(target) = from_float<T>(reduce_max(hit));
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
