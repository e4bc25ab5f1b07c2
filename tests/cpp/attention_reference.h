#pragma once
// Attention in double that forms every score, with all options.

#include "attention_cases.h"
#include "philox.h"

namespace fusedlm::test::attention {

/// Rows of no sequence stay NaN: nothing writes them.
struct Truth {
  std::vector<double> out, lse, dquery, dkey, dvalue;
};

class Reference {
 public:
  Reference(const Case& c, const Inputs& in)
      : c(c),
        in(in),
        options(options_of(c, in)),
        query(Matrix(in.query).values),
        key(Matrix(in.key).values),
        value(Matrix(in.value).values),
        dout(Matrix(in.dout).values) {
    const auto unwritten = [](index_t count) { return std::vector<double>(count, NAN); };
    const index_t queries = in.query.size(), keys = in.key.size();
    truth = {unwritten(queries), unwritten(c.B * c.H * c.T), unwritten(queries), unwritten(keys),
             unwritten(keys)};
    const index_t sequences = c.extras.packed ? in.cu_q.size() - 1 : c.B;
    for (index_t i = 0; i < sequences; ++i) add(sequence(i));
  }
  Truth truth;

 private:
  struct Sequence {
    index_t b, q0, T, k0, S;
  };
  const Case& c;
  const Inputs& in;
  const AttentionOptions options;
  const std::vector<double> query, key, value, dout;

  Sequence sequence(index_t i) const {
    const auto at = [](const Buffer& b, index_t i) { return static_cast<index_t>(b[i]); };
    if (c.extras.packed) {
      return {0, at(in.cu_q, i), at(in.cu_q, i + 1) - at(in.cu_q, i), at(in.cu_k, i),
              at(in.cu_k, i + 1) - at(in.cu_k, i)};
    }
    return {i, 0, c.T, 0, c.extras.lengths ? at(in.lengths, i) : c.S};
  }

  void add(const Sequence& s) {
    const index_t query_row = c.H * c.D, key_row = c.G * c.D;
    for (auto* rows : {&truth.dkey, &truth.dvalue})
      std::fill_n(rows->begin() + (s.b * c.S + s.k0) * key_row, s.S * key_row, 0.0);
    for (auto* rows : {&truth.out, &truth.dquery})
      std::fill_n(rows->begin() + (s.b * c.T + s.q0) * query_row, s.T * query_row, 0.0);
    for (index_t t = 0; t < s.T; ++t)
      for (index_t h = 0; h < c.H; ++h) add_row(s, t, h);
  }

  /// What is added to a score; -infinity where it is hidden.
  double added(const Sequence& s, index_t t, index_t h, index_t j) const {
    const Extras& e = c.extras;
    const index_t distance = t + s.S - s.T - j;
    if (c.causal && distance < 0) return -INFINITY;
    if (c.window && std::abs(distance) >= c.window) return -INFINITY;
    if (e.padding && in.padding[s.b * c.S + j] == 0) return -INFINITY;
    double sum = e.alibi ? -in.slopes[h] * std::abs(distance) : 0.0;
    if (e.mask != DType::other) {
      const auto& step = options.mask.strides;
      const double mask = in.mask[s.b * step[0] + h * step[1] + t * step[2] + j * step[3]];
      if (e.mask == DType::boolean) return mask == 0 ? -INFINITY : sum;
      sum += mask;
    }
    return sum;
  }

  /// What dropout multiplies a weight with.
  double kept(const Sequence& s, index_t t, index_t h, index_t j) const {
    if (c.extras.dropout == 0) return 1.0;
    const auto words = philox({static_cast<uint32_t>(j / 4), static_cast<uint32_t>(s.q0 + t),
                               static_cast<uint32_t>(s.b * c.H + h), 0},
                              kDropoutSeed);
    const double p = c.extras.dropout;
    return words[j % 4] < std::floor(p * 0x1p32) ? 0.0 : 1.0 / (1.0 - p);
  }

  // One query of one head; the vectors start at q, k and so on, keys lie `step` apart.
  void add_row(const Sequence& s, index_t t, index_t h) {
    const index_t q = ((s.b * c.T + s.q0 + t) * c.H + h) * c.D, step = c.G * c.D;
    const index_t k = (s.b * c.S + s.k0) * step + h / (c.H / c.G) * c.D;
    const double scale = options.scale;
    std::vector<double> capped(s.S), score(s.S), weight(s.S), dweight(s.S);
    double sum = 0.0, mean = 0.0;  // mean: of dweight, by the weights
    for (index_t j = 0; j < s.S; ++j) {
      for (index_t d = 0; d < c.D; ++d) capped[j] += scale * query[q + d] * key[k + j * step + d];
      if (c.softcap > 0) capped[j] = c.softcap * std::tanh(capped[j] / c.softcap);
      score[j] = capped[j] + added(s, t, h, j);
      sum += std::exp(score[j]);
    }
    truth.lse[(s.b * c.H + h) * c.T + s.q0 + t] = sum > 0 ? std::log(sum) : INFINITY;
    if (sum == 0) return;
    for (index_t j = 0; j < s.S; ++j) {
      weight[j] = std::exp(score[j]) / sum;
      const double keep = kept(s, t, h, j);
      for (index_t d = 0; d < c.D; ++d) {
        truth.out[q + d] += keep * weight[j] * value[k + j * step + d];
        truth.dvalue[k + j * step + d] += keep * weight[j] * dout[q + d];
        dweight[j] += keep * dout[q + d] * value[k + j * step + d];
      }
      mean += weight[j] * dweight[j];
    }
    for (index_t j = 0; j < s.S; ++j) {
      double dscore = weight[j] * (dweight[j] - mean) * scale;
      if (c.softcap > 0) dscore *= 1.0 - std::pow(capped[j] / c.softcap, 2.0);
      for (index_t d = 0; d < c.D; ++d) {
        truth.dquery[q + d] += dscore * key[k + j * step + d];
        truth.dkey[k + j * step + d] += dscore * query[q + d];
      }
    }
  }
};

/// As `truth`; where that is infinite or NaN, the same.
inline void expect_same(const Buffer& got, const std::vector<double>& truth, double tolerance,
                        const char* name) {
  double scale = 0.0;
  for (double t : truth) scale = std::isfinite(t) ? std::max(scale, std::abs(t)) : scale;
  ASSERT_EQ(got.size(), static_cast<index_t>(truth.size())) << name;
  for (index_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(got[i] - truth[i]);
    const bool same = got[i] == truth[i] || (std::isnan(got[i]) && std::isnan(truth[i]));
    ASSERT_TRUE(same || error <= tolerance * scale)
        << name << "[" << i << "] is " << got[i] << ", expected " << truth[i] << " (relative to "
        << scale << ": " << error / scale << ")";
  }
}

/// In 16 bits the weights (backward: the gradients of the scores) are rounded, then the result.
inline void expect_same_forward(const Outputs& o, const Truth& truth, DType dtype) {
  expect_same(o.lse, truth.lse, 2e-6, "lse");
  expect_same(o.out, truth.out, tolerance_of(dtype, 16, 2), "out");
}
inline void expect_same(const Outputs& o, const Truth& truth, DType dtype) {
  const double tolerance = tolerance_of(dtype, 16, 2);
  expect_same_forward(o, truth, dtype);
  expect_same(o.dquery, truth.dquery, tolerance, "dquery");
  expect_same(o.dkey, truth.dkey, tolerance, "dkey");
  expect_same(o.dvalue, truth.dvalue, tolerance, "dvalue");
}

}  // namespace fusedlm::test::attention
