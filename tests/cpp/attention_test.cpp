// Attention against a reference in double that forms every score.

#include "fusedlm/attention.h"

#include <limits>

#include "support.h"

namespace fusedlm::test {
namespace {

struct Case {
  const char* name;
  index_t B, T, S, H, G, D;
  bool causal = false;
  index_t window = 0;
  float softcap = 0.0f;
};
// Few queries (no tiles) and many; T, S and D that fill no tile, and S over several tiles of keys. And
// a width for each instance of the CUDA kernels.
constexpr Case kCases[] = {
    {"one score", 1, 1, 1, 1, 1, 1},
    {"one query, many keys", 2, 1, 300, 4, 2, 64, true},
    {"full", 2, 37, 41, 2, 2, 40},
    {"causal", 1, 150, 150, 2, 2, 64, true},
    {"causal, grouped heads, queries at the end of the keys", 2, 19, 283, 6, 2, 24, true},
    {"causal, more queries than keys", 1, 50, 20, 1, 1, 16, true},
    {"causal window", 1, 130, 160, 4, 1, 33, true, 9},
    {"window to both sides", 1, 70, 70, 2, 1, 16, false, 5},
    {"softcap", 1, 33, 65, 2, 1, 32, false, 0, 2.0f},
    {"few queries, keys in parts", 1, 3, 1100, 4, 2, 32, true},
    {"D = 96", 1, 140, 70, 2, 1, 96},
    {"D = 128", 1, 70, 140, 2, 1, 128, true},
    {"D = 192", 1, 70, 70, 1, 1, 192, true},
    {"D = 256", 1, 70, 70, 1, 1, 256, true},
};

AttentionOptions options_of(const Case& c) {
  return {.causal = c.causal,
          .window = c.window,
          .scale = 1.0f / std::sqrt(static_cast<float>(c.D)),
          .softcap = c.softcap};
}

struct Inputs {
  Buffer query, key, value, dout;
  Inputs(const Case& c, DType dtype)
      : query(random({c.B, c.T, c.H, c.D}, 0, dtype, 2.0)),
        key(random({c.B, c.S, c.G, c.D}, 1, dtype, 2.0)),
        value(random({c.B, c.S, c.G, c.D}, 2, dtype)),
        dout(random({c.B, c.T, c.H, c.D}, 3, dtype)) {}
};

struct Outputs {
  Buffer out, lse, dquery, dkey, dvalue;
  Outputs(const Case& c, DType dtype)
      : out({c.B, c.T, c.H, c.D}, dtype),
        lse({c.B, c.H, c.T}),
        dquery({c.B, c.T, c.H, c.D}, dtype),
        dkey({c.B, c.S, c.G, c.D}, dtype),
        dvalue({c.B, c.S, c.G, c.D}, dtype) {}
};

Outputs run(const Case& c, const Inputs& in, DType dtype) {
  Outputs o(c, dtype);
  const AttentionOptions options = options_of(c);
  attention_forward(
      {in.query.view(), in.key.view(), in.value.view(), o.out.view(), o.lse.view(), options},
      Context::current());
  attention_backward({in.dout.view(), in.query.view(), in.key.view(), in.value.view(), o.out.view(),
                      o.lse.view(), o.dquery.view(), o.dkey.view(), o.dvalue.view(), options},
                     Context::current());
  return o;
}

struct Truth {
  std::vector<double> out, lse, dquery, dkey, dvalue;
};

bool sees(const Case& c, index_t t, index_t j) {
  const index_t distance = t + c.S - c.T - j;
  return (!c.causal || distance >= 0) && (!c.window || std::abs(distance) < c.window);
}

// One query of one head; the vectors start at q, k and so on, keys lie `step` apart.
void reference_row(const Case& c, const Inputs& in, index_t b, index_t t, index_t h, Truth& truth) {
  const index_t q = ((b * c.T + t) * c.H + h) * c.D, step = c.G * c.D;
  const index_t k = b * c.S * step + h / (c.H / c.G) * c.D;
  const double scale = options_of(c).scale;
  std::vector<double> score(c.S, -INFINITY), weight(c.S), dweight(c.S);
  double sum = 0.0, mean = 0.0;  // mean: of dweight, by the weights
  for (index_t j = 0; j < c.S; ++j) {
    if (!sees(c, t, j)) continue;
    score[j] = 0.0;
    for (index_t d = 0; d < c.D; ++d)
      score[j] += scale * in.query[q + d] * in.key[k + j * step + d];
    if (c.softcap > 0) score[j] = c.softcap * std::tanh(score[j] / c.softcap);
    sum += std::exp(score[j]);
  }
  truth.lse[(b * c.H + h) * c.T + t] = sum > 0 ? std::log(sum) : INFINITY;
  for (index_t j = 0; j < c.S; ++j) {
    weight[j] = sum > 0 ? std::exp(score[j]) / sum : 0.0;
    for (index_t d = 0; d < c.D; ++d) {
      truth.out[q + d] += weight[j] * in.value[k + j * step + d];
      truth.dvalue[k + j * step + d] += weight[j] * in.dout[q + d];
      dweight[j] += in.dout[q + d] * in.value[k + j * step + d];
    }
    mean += weight[j] * dweight[j];
  }
  for (index_t j = 0; j < c.S; ++j) {
    if (weight[j] == 0) continue;
    double dscore = weight[j] * (dweight[j] - mean) * scale;
    if (c.softcap > 0) dscore *= 1.0 - std::pow(score[j] / c.softcap, 2.0);
    for (index_t d = 0; d < c.D; ++d) {
      truth.dquery[q + d] += dscore * in.key[k + j * step + d];
      truth.dkey[k + j * step + d] += dscore * in.query[q + d];
    }
  }
}

Truth reference(const Case& c, const Inputs& in) {
  const auto zeros = [](index_t count) { return std::vector<double>(count); };
  const index_t queries = in.query.size(), keys = in.key.size();
  Truth truth{zeros(queries), zeros(c.B * c.H * c.T), zeros(queries), zeros(keys), zeros(keys)};
  for (index_t b = 0; b < c.B; ++b)
    for (index_t t = 0; t < c.T; ++t)
      for (index_t h = 0; h < c.H; ++h) reference_row(c, in, b, t, h, truth);
  return truth;
}

void expect_lse(const Buffer& lse, const std::vector<double>& truth, double tolerance) {
  for (index_t i = 0; i < lse.size(); ++i) {
    if (std::isinf(truth[i])) {
      ASSERT_EQ(lse[i], truth[i]) << "lse[" << i << "]";
    } else {
      ASSERT_NEAR(lse[i], truth[i], tolerance) << "lse[" << i << "]";
    }
  }
}

TEST(Attention, ForwardAndBackwardEqualDouble) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    for (DType dtype : kFloatTypes) {
      SCOPED_TRACE(name_of(dtype));
      const Inputs in(c, dtype);
      const Truth truth = reference(c, in);
      // In bfloat16 the weights (backward: the gradients of the scores) are rounded, then the
      // result.
      const double tolerance = tolerance_of(dtype, 16, 2);
      on_every_isa([&] {
        const Outputs o = run(c, in, dtype);
        expect_lse(o.lse, truth.lse, 5e-6);
        expect_close(o.out, truth.out, tolerance, "out");
        expect_close(o.dquery, truth.dquery, tolerance, "dquery");
        expect_close(o.dkey, truth.dkey, tolerance, "dkey");
        expect_close(o.dvalue, truth.dvalue, tolerance, "dvalue");
      });
    }
  }
}

TEST(Attention, AQueryThatSeesNoKeyGivesZerosAndAnInfiniteLse) {
  const Case c{"", 1, 30, 10, 1, 1, 16, true};
  const Inputs in(c, DType::float32);
  on_every_isa([&] {
    const Outputs o = run(c, in, DType::float32);
    for (index_t t = 0; t < c.T - c.S; ++t) {
      EXPECT_EQ(o.lse[t], INFINITY);
      for (index_t d = 0; d < c.D; ++d) EXPECT_EQ(o.out[t * c.D + d], 0.0);
    }
  });
}

TEST(Attention, AKeyBehindTheQueryHasNoEffectUnderCausality) {
  const Case c{"", 1, 140, 140, 1, 1, 32, true};
  const Inputs in(c, DType::float32);
  Inputs changed = in;
  const index_t last = (c.T - 1) * c.D;
  for (index_t d = 0; d < c.D; ++d) {
    changed.key.set(last + d, 100.0);
    changed.value.set(last + d, 1e6);
  }
  on_every_isa([&] {
    const Buffer before = run(c, in, DType::float32).out;
    const Buffer after = run(c, changed, DType::float32).out;
    for (index_t i = 0; i < last; ++i) ASSERT_EQ(before[i], after[i]) << i;
  });
}

TEST(Attention, AWindowBeyondAllKeysIsNone) {
  Case c{"", 1, 40, 50, 2, 1, 16, true};
  const Inputs in(c, DType::float32);
  on_every_isa([&] {
    c.window = 0;
    const Outputs none = run(c, in, DType::float32);
    c.window = std::numeric_limits<index_t>::max();
    const Outputs all = run(c, in, DType::float32);
    for (index_t i = 0; i < c.T * c.H * c.D; ++i) ASSERT_EQ(none.out[i], all.out[i]) << i;
    for (index_t i = 0; i < c.S * c.G * c.D; ++i) ASSERT_EQ(none.dkey[i], all.dkey[i]) << i;
  });
}

TEST(Attention, OneThreadAndTwoGiveTheSameBits) {
  const Case c{"", 2, 150, 300, 4, 2, 64, true};
  for (DType dtype : kFloatTypes) {
    const Inputs in(c, dtype);
    expect_same_bits_for_one_and_two_threads([&] {
      const Outputs o = run(c, in, dtype);
      return std::vector<Buffer>{o.out, o.lse, o.dquery, o.dkey, o.dvalue};
    });
  }
}

/// Rows of a cache, S of each sequence, as pages in reverse order; what no length reaches is NaN.
struct PagedCache {
  static constexpr index_t kPage = 12;
  std::vector<int32_t> table;
  Buffer key, value;

  PagedCache(const Case& c, const Inputs& in, const std::vector<int32_t>& lengths)
      : table(c.B * pages(c), -7),
        key({c.B * pages(c), kPage, c.G, c.D}, in.key.dtype()),
        value({c.B * pages(c), kPage, c.G, c.D}, in.key.dtype()) {
    const index_t row = c.G * c.D;
    for (index_t b = 0; b < c.B; ++b) {
      for (index_t j = 0; j < lengths[b]; ++j) {
        const index_t entry = b * pages(c) + j / kPage, page = c.B * pages(c) - 1 - entry;
        table[entry] = static_cast<int32_t>(page);
        for (index_t d = 0; d < row; ++d) {
          const index_t to = (page * kPage + j % kPage) * row + d, from = (b * c.S + j) * row + d;
          key.set(to, in.key[from]);
          value.set(to, in.value[from]);
        }
      }
    }
  }
  static index_t pages(const Case& c) { return c.S / kPage; }
};

TEST(Attention, KeysInPagesEqualThoseInARow) {
  constexpr Case kPagedCases[] = {
      {"one query", 2, 1, 96, 4, 2, 64, true},
      {"few queries, softcap", 2, 3, 96, 4, 2, 128, true, 0, 2.0f},
      {"many queries", 2, 40, 96, 4, 2, 33, true},
      {"many queries, window", 2, 40, 96, 2, 1, 192, true, 20},
  };
  std::vector<int32_t> lengths = {96, 41};
  for (const Case& c : kPagedCases) {
    SCOPED_TRACE(c.name);
    for (DType dtype : kFloatTypes) {
      SCOPED_TRACE(name_of(dtype));
      const Inputs in(c, dtype);
      PagedCache cache(c, in, lengths);
      AttentionOptions options = options_of(c);
      options.kv_lengths = TensorView(lengths.data(), DType::int32, {c.B});
      on_every_isa([&] {
        const auto forward = [&](const Buffer& key, const Buffer& value) {
          Outputs o(c, dtype);
          attention_forward(
              {in.query.view(), key.view(), value.view(), o.out.view(), o.lse.view(), options},
              Context::current());
          return o;
        };
        options.block_table = {};
        const Outputs row = forward(in.key, in.value);
        options.block_table =
            TensorView(cache.table.data(), DType::int32, {c.B, PagedCache::pages(c)});
        const Outputs paged = forward(cache.key, cache.value);
        expect_close(paged.out, Matrix(row.out), tolerance_of(dtype, 16), "out");
        expect_close(paged.lse, Matrix(row.lse), 1e-6, "lse");
      });
    }
  }
}

TEST(Attention, AWrongArgumentIsNamed) {
  const Buffer query({2, 5, 4, 64}), key({2, 7, 2, 48}), odd({2, 7, 3, 64}), lse({2, 4, 5});
  AttentionForward args{query.view(), key.view(), key.view(), query.view(), lse.view(), {}};
  const auto message = [&] {
    return message_of([&] { attention_forward(args, Context::current()); });
  };
  EXPECT_EQ(message(),
            "attention: key has shape [2, 7, 2, 48], expected 64 in dimension 3 as in "
            "query");
  args.key = args.value = odd.view();
  EXPECT_EQ(message(), "attention: key has 3 heads, expected a divisor of the 4 heads of query");
  args.key = args.value = query.view();
  args.options.window = -1;
  EXPECT_EQ(message(), "attention: window is -1, expected at least 1");
}

}  // namespace
}  // namespace fusedlm::test
