// Attention whose offsets, lengths and pages are not what the host lets pass where it can look at them: on a GPU they
// are cut to what the tensors hold, so that the result is that of the values they are cut to.

#include <limits>

#include "attention_cases.h"
#include "simt/unchecked_call.h"

namespace fusedlm {
FUSEDLM_DECLARE_KERNEL(simt, attention_forward, AttentionForward)
FUSEDLM_DECLARE_KERNEL(simt, attention_backward, AttentionBackward)
}  // namespace fusedlm

namespace fusedlm::test::attention {
namespace {

constexpr int kMost = std::numeric_limits<int>::max(), kLeast = std::numeric_limits<int>::min();

Buffer integers(std::initializer_list<index_t> shape, const std::vector<int>& values) {
  return Buffer(shape, DType::int32, values);
}
Buffer integers(const std::vector<int>& values) {
  return integers({static_cast<index_t>(values.size())}, values);
}

void forward(const Inputs& in, const Buffer& key, const Buffer& value, const Outputs& o,
             const AttentionOptions& options, Races races = Races::reported) {
  const AttentionForward a{in.query.view(), key.view(),   value.view(),
                           o.out.view(),    o.lse.view(), options};
  call_unchecked(simt::attention_forward, a,
                 {{"query", a.query},
                  {"key", a.key},
                  {"value", a.value},
                  {"out", a.out},
                  {"lse", a.lse},
                  {"alibi_slopes", options.alibi_slopes},
                  {"cu_seqlens_q", options.cu_seqlens_q},
                  {"cu_seqlens_k", options.cu_seqlens_k},
                  {"kv_lengths", options.kv_lengths},
                  {"block_table", options.block_table}},
                 races);
}

/// Forward and backward. What no kernel writes stays NaN.
Outputs run_unchecked(const Case& c, const Inputs& in, DType dtype, const AttentionOptions& options,
                      Races races = Races::reported) {
  Outputs o(c, dtype);
  forward(in, in.key, in.value, o, options, races);
  const AttentionBackward a{in.dout.view(),  in.query.view(), in.key.view(),   in.value.view(),
                            o.out.view(),    o.lse.view(),    o.dquery.view(), o.dkey.view(),
                            o.dvalue.view(), options};
  call_unchecked(simt::attention_backward, a,
                 {{"dout", a.dout},
                  {"query", a.query},
                  {"key", a.key},
                  {"value", a.value},
                  {"out", a.out},
                  {"lse", a.lse},
                  {"dquery", a.dquery},
                  {"dkey", a.dkey},
                  {"dvalue", a.dvalue},
                  {"alibi_slopes", options.alibi_slopes},
                  {"cu_seqlens_q", options.cu_seqlens_q},
                  {"cu_seqlens_k", options.cu_seqlens_k},
                  {"kv_lengths", options.kv_lengths}},
                 races);
  return o;
}

void expect_same(const Outputs& got, const Outputs& wanted) {
  EXPECT_TRUE(got.out == wanted.out);
  EXPECT_TRUE(got.lse == wanted.lse);
  EXPECT_TRUE(got.dquery == wanted.dquery);
  EXPECT_TRUE(got.dkey == wanted.dkey);
  EXPECT_TRUE(got.dvalue == wanted.dvalue);
}

/// body(case, inputs, dtype, options) for a case without options and one with them.
template <class Body>
void for_each_case(index_t B, index_t T, index_t S, Body&& body) {
  const Case kCases[] = {
      {"plain", B, T, S, 2, 1, 24},
      {"all", B, T, S, 2, 1, 24, true, S / 2, 2.0f, {.alibi = true, .dropout = 0.2f}}};
  for (const Case& c : kCases) {
    for (DType dtype : kFloatTypes) {
      SCOPED_TRACE(std::string(c.name) + ", " + name_of(dtype));
      const Inputs in(c, dtype);
      body(c, in, dtype, options_of(c, in));
    }
  }
}

AttentionOptions with_offsets(AttentionOptions options, const Buffer& cu_q, const Buffer& cu_k) {
  options.cu_seqlens_q = cu_q.view(), options.cu_seqlens_k = cu_k.view();
  return options;
}

TEST(BadLengths, OffsetsAreCutToTheTokensThereAre) {
  constexpr index_t N = 40;
  const std::vector<int> kOffsets[][2] = {
      {{0, 5, kMost}, {0, 5, N}},      // an end behind the last token
      {{-7, 10, 20}, {0, 10, 20}},     // a start before the first
      {{0, kLeast, 20}, {0, 0, 20}},   // an end, and then a start, before the first
      {{0, 30, 12}, {0, 30, 30}},      // an end before its start
      {{0, kMost, kMost}, {0, N, N}},  // a start behind the last
  };
  for_each_case(1, N, N, [&](const Case& c, const Inputs& in, DType dtype, const auto& options) {
    const auto run = [&](const Buffer& cu_q, const Buffer& cu_k) {
      return run_unchecked(c, in, dtype, with_offsets(options, cu_q, cu_k));
    };
    for (const auto& [bad, cut] : kOffsets) {
      SCOPED_TRACE(::testing::PrintToString(bad));
      const Buffer got = integers(bad), wanted = integers(cut);
      expect_same(run(got, got), run(wanted, wanted));
    }
    const Buffer good = integers({0, 8, N}), bad = integers({-9, 8, kMost});
    expect_same(run(good, bad), run(good, good));
  });
}

/// The first `count` rows are those of `wanted`.
void expect_rows_before(index_t count, const Buffer& got, const Buffer& wanted, const char* name) {
  for (index_t i = 0; i < count * (got.size() / got.view().shape[1]); ++i) {
    ASSERT_EQ(got[i], wanted[i]) << name << "[" << i << "]";
  }
}

// Then sequences share tokens, whose rows are one's or the other's or nobody's: the checked build sees that they are
// in bounds. A sequence that shares none has its own.
TEST(BadLengths, FallingOffsetsStayInBoundsAndSpoilNoOtherSequence) {
  constexpr index_t N = 150, kSecond = 5;
  const Buffer bad = integers({0, kSecond, kMost, 20, kMost}),
               cut = integers({0, kSecond, N, N, N});
  for_each_case(1, N, N, [&](const Case& c, const Inputs& in, DType dtype, const auto& options) {
    const auto run = [&](const Buffer& cu) {
      return run_unchecked(c, in, dtype, with_offsets(options, cu, cu), Races::allowed);
    };
    const Outputs got = run(bad), wanted = run(cut);
    expect_rows_before(kSecond, got.out, wanted.out, "out");
    expect_rows_before(kSecond, got.dquery, wanted.dquery, "dquery");
    expect_rows_before(kSecond, got.dkey, wanted.dkey, "dkey");
    expect_rows_before(kSecond, got.dvalue, wanted.dvalue, "dvalue");
  });
}

TEST(BadLengths, KeyLengthsAreCutToTheKeysThereAre) {
  constexpr index_t B = 3, S = 40;
  const Buffer bad = integers({kLeast, 17, kMost}), wanted = integers({0, 17, S});
  for (index_t T : {2, 40}) {  // few queries have kernels of their own
    for_each_case(B, T, S, [&](const Case& c, const Inputs& in, DType dtype, auto options) {
      const auto run = [&](const Buffer& lengths) {
        options.kv_lengths = lengths.view();
        return run_unchecked(c, in, dtype, options);
      };
      expect_same(run(bad), run(wanted));
    });
  }
}

TEST(BadLengths, PagesAreCutToThoseOfTheCache) {
  constexpr index_t B = 3, S = 40, kPage = 8, kPages = 6;
  const Buffer bad_table =
      integers({B, S / kPage}, {3, kLeast, 1, 5, 0, kPages, 2, kMost, 4, 1, 0, -1, 3, 1 << 30, 2});
  const Buffer table = integers({B, S / kPage}, {3, 0, 1, 5, 0, 5, 2, 5, 4, 1, 0, 0, 3, 5, 2});
  const Buffer bad_lengths = integers({S, kLeast, kMost}), lengths = integers({S, 0, S});
  for (index_t T : {2, 40}) {
    for_each_case(B, T, S, [&](const Case& c, const Inputs& in, DType dtype, auto options) {
      const Buffer key = random({kPages, kPage, c.G, c.D}, 4, dtype, 2.0),
                   value = random({kPages, kPage, c.G, c.D}, 5, dtype);
      const auto run = [&](const Buffer& pages, const Buffer& kv_lengths) {
        options.block_table = pages.view(), options.kv_lengths = kv_lengths.view();
        Outputs o(c, dtype);
        forward(in, key, value, o, options);
        return o;
      };
      expect_same(run(bad_table, bad_lengths), run(table, lengths));
    });
  }
}

}  // namespace
}  // namespace fusedlm::test::attention
