#pragma once
// From products q k to scores in powers of 2, and from there to slopes: scale, softcap, what is added
// and what is hidden. Forward and backward, tensor cores and float32 say this once.

#include "cuda/attention_problem.h"

namespace fusedlm::FUSEDLM_DEVICE {

constexpr float kInfinity = __builtin_inff();

/// 2^x by the hardware's approximation (2 ulp); what is below 2^-126 becomes 0.
__device__ __forceinline__ float fast_exp2(float x) {
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return ::exp2f(x);
#endif
}

/// One query of one head.
struct Query {
  int head, t;
  float slope;  // of ALiBi, for powers of 2
};

struct ScoreRules {
  const Problem& p;
  Sequence s;

  __device__ __forceinline__ Query query(int head, int t) const {
    return {head, t, p.slopes ? p.slopes[head] * kLog2E : 0.0f};
  }
  __device__ __forceinline__ bool sees(int t, int j) const {
    return p.band.sees(t + s.S - s.T - j) && j < s.S;
  }
  /// What softcap makes of a product: tanh(scale x), or the score itself.
  __device__ __forceinline__ float capped(float product) const {
    const float x = product * p.scale;
    return p.cap != 0.0f ? tanhf(x) : x;
  }
  /// The score that `capped` stands for, with what is added to it; -inf where it is hidden.
  __device__ __forceinline__ float score(float capped, const Query& q, int j) const {
    if (!sees(q.t, j) || q.t >= s.T) return -kInfinity;
    float x = p.cap != 0.0f ? p.cap * capped : capped;
    x -= q.slope * fabsf(static_cast<float>(q.t + s.S - s.T - j));
    if (p.padding && !p.padding[s.b * p.padding_strides[0] + j * p.padding_strides[1]]) {
      return -kInfinity;
    }
    if (p.mask_kind == MaskKind::none) return x;
    const index_t at = s.b * p.mask_strides[0] + q.head * p.mask_strides[1] +
                       q.t * p.mask_strides[2] + j * p.mask_strides[3];
    if (p.mask_kind == MaskKind::boolean) {
      return static_cast<const uint8_t*>(p.mask)[at] ? x : -kInfinity;
    }
    return fmaf(p.mask_kind == MaskKind::float32
                    ? static_cast<const float*>(p.mask)[at]
                    : to_float(static_cast<const bfloat16*>(p.mask)[at]),
                kLog2E, x);
  }
};

/// fn(i, j) for each element a thread holds, a column at a time.
template <class Sums, class Fn>
__device__ __forceinline__ void for_elements(Fn fn) {
#pragma unroll
  for (int j = 0; j < Sums::kColumns; ++j) {
#pragma unroll
    for (int i = 0; i < Sums::kRows; ++i) fn(i, j);
  }
}

/// What a tile's scores need: with options always everything, else only hiding, at the edges.
/// `query_of(i)` and `key_of(j)` name row i and column j of `x`; in place. Returns the factor that is
/// still to be multiplied.
template <Variant kVariant, class Sums, class QueryOf, class KeyOf>
__device__ __forceinline__ float prepare_scores(const ScoreRules& rules, Sums& x, bool edge,
                                                QueryOf query_of, KeyOf key_of) {
  if constexpr (kVariant == Variant::plain) {
    if (edge) {
#pragma unroll
      for (int i = 0; i < Sums::kRows; ++i) {
        const int t = query_of(i).t;
#pragma unroll
        for (int j = 0; j < Sums::kColumns; ++j) {
          if (!rules.sees(t, key_of(j))) x.at(i, j) = -kInfinity;
        }
      }
    }
    return rules.p.scale;
  } else {
#pragma unroll
    for (int i = 0; i < Sums::kRows; ++i) {
      const Query q = query_of(i);
#pragma unroll
      for (int j = 0; j < Sums::kColumns; ++j) {
        x.at(i, j) = rules.score(rules.capped(x.at(i, j)), q, key_of(j));
      }
    }
    return 1.0f;
  }
}

/// Log-sum-exp (in powers of 2) and sum(dout * out) of a query.
struct RowStatistics {
  float lse, delta;
};

/// A weight exp(score - lse) and the gradient of the product it came from (before `slope_scale`).
struct Slope {
  float weight, slope;
};

__device__ __forceinline__ Slope slope_of(const ScoreRules& rules, float product, float dweight,
                                          const RowStatistics& row, const Query& q, int j,
                                          bool kept) {
  const float capped = rules.capped(product);
  const float weight = fast_exp2(rules.score(capped, q, j) - row.lse);
  if (rules.p.dropout) dweight = kept ? dweight * rules.p.keep_scale : 0.0f;
  float slope = weight * (dweight - row.delta);
  if (rules.p.cap != 0.0f) slope *= fmaf(-capped, capped, 1.0f);
  return {kept ? weight : 0.0f, slope};
}

/// Products -> weights (as dropout leaves them) and gradients of weights -> slopes, in place, where
/// rows are queries: `query_of(i)` with `row_of(i)` its statistics. Hiding is a pass of its own, so
/// that tiles inside do not pay for it.
template <bool kExtras, class Sums, class RowOf, class QueryOf, class KeptAt>
__device__ __forceinline__ void differentiate(const ScoreRules& rules, Sums& x, Sums& dweights,
                                              int j0, bool edge, RowOf row_of, QueryOf query_of,
                                              KeptAt kept_at) {
  if constexpr (kExtras) {
#pragma unroll
    for (int i = 0; i < Sums::kRows; ++i) {
      const Query q = query_of(i);
#pragma unroll
      for (int j = 0; j < Sums::kColumns; ++j) {
        const Slope both = slope_of(rules, x.at(i, j), dweights.at(i, j), row_of(i), q,
                                    j0 + Sums::column(j), kept_at(i, j));
        x.at(i, j) = both.weight;
        dweights.at(i, j) = both.slope;
      }
    }
  } else {
    const float scale = prepare_scores<Variant::plain>(rules, x, edge, query_of,
                                                       [&](int j) { return j0 + Sums::column(j); });
#pragma unroll
    for (int i = 0; i < Sums::kRows; ++i) {
      const RowStatistics row = row_of(i);
#pragma unroll
      for (int j = 0; j < Sums::kColumns; ++j) {
        x.at(i, j) = fast_exp2(fmaf(x.at(i, j), scale, -row.lse));
        dweights.at(i, j) = x.at(i, j) * (dweights.at(i, j) - row.delta);
      }
    }
  }
}

}  // namespace fusedlm::FUSEDLM_DEVICE
