// Attention over a cache in pages, forward.

#include "attention_reference.h"

namespace fusedlm::test::attention {
namespace {

/// Rows of a cache, S of each sequence, as pages in reverse order; what no length reaches is NaN, and
/// its pages are none.
struct PagedCache {
  static constexpr index_t kPage = 12;
  Buffer table, key, value;

  PagedCache(const Case& c, const Inputs& in)
      : table(filled({c.B, pages(c)}, DType::int32, [](index_t) { return -7; })),
        key({c.B * pages(c), kPage, c.G, c.D}, in.key.dtype()),
        value(key) {
    const index_t row = c.G * c.D;
    for (index_t b = 0; b < c.B; ++b) {
      for (index_t j = 0; j < in.lengths[b]; ++j) {
        const index_t entry = b * pages(c) + j / kPage, page = c.B * pages(c) - 1 - entry;
        table.set(entry, page);
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

void expect_equal_to_double(const Case& c) {
  SCOPED_TRACE(c.name);
  for (DType dtype : all_float_types()) {
    SCOPED_TRACE(name_of(dtype));
    const Inputs in(c, dtype);
    const Truth truth = Reference(c, in).truth;
    const PagedCache cache(c, in);
    AttentionOptions options = options_of(c, in);
    options.block_table = cache.table.view();
    on_every_isa_for(dtype, [&] {
      const Outputs o(c, dtype);
      attention_forward({in.query.view(), cache.key.view(), cache.value.view(), o.out.view(),
                         o.lse.view(), options},
                        Context::current());
      expect_same_forward(o, truth, dtype);
    });
  }
}

constexpr Extras kLengths{.lengths = true};

TEST(AttentionPaged, EqualsDouble) {
  constexpr Case kCases[] = {
      {"one query", 2, 1, 84, 4, 2, 64, true, 0, 0.0f, kLengths},
      {"few queries, softcap", 2, 3, 84, 4, 2, 128, true, 0, 2.0f, kLengths},
      {"many queries", 2, 40, 84, 4, 2, 33, true, 0, 0.0f, kLengths},
      {"many queries, window", 2, 40, 84, 2, 1, 192, true, 20, 0.0f, kLengths},
  };
  for (const Case& c : kCases) expect_equal_to_double(c);
}

TEST(AttentionPaged, AllOptionsEqualDoubleAtEveryWidth) {
  constexpr Extras kAll{
      .mask = DType::bfloat16, .padding = true, .alibi = true, .lengths = true, .dropout = 0.2f};
  for (index_t D : {24, 64, 80, 128, 192, 256}) {
    SCOPED_TRACE(D);
    expect_equal_to_double({"few queries", 2, 2, 84, 4, 2, D, true, 30, 3.0f, kAll});
    expect_equal_to_double({"many queries", 2, 22, 84, 2, 1, D, true, 30, 3.0f, kAll});
  }
}

}  // namespace
}  // namespace fusedlm::test::attention
