// Attention with what is added to its scores, hidden and dropped, and with sequences of several lengths.

#include "attention_reference.h"

namespace fusedlm::test::attention {
namespace {

/// expect(inputs, truth, dtype) where there are kernels of dtype.
template <class Expect>
void with_every_type(const Case& c, Expect expect) {
  SCOPED_TRACE(c.name);
  for (DType dtype : all_float_types()) {
    SCOPED_TRACE(name_of(dtype));
    const Inputs in(c, dtype);
    const Truth truth = Reference(c, in).truth;
    on_every_isa_for(dtype, [&] { expect(in, truth, dtype); });
  }
}

void expect_forward_equals_double(const Case& c) {
  with_every_type(c, [&](const Inputs& in, const Truth& truth, DType dtype) {
    expect_same_forward(run_forward(c, in, dtype), truth, dtype);
  });
}

void expect_equal_to_double(const Case& c) {
  with_every_type(c, [&](const Inputs& in, const Truth& truth, DType dtype) {
    expect_same(run(c, in, dtype), truth, dtype);
  });
}

constexpr Extras kPackedOptions{.alibi = true, .packed = true, .dropout = 0.2f};

// T and S that fill no tile, and S over two tiles of keys.
constexpr Case kCases[] = {
    {"boolean mask", 2, 37, 41, 4, 2, 24, false, 0, 0.0f, {.mask = DType::boolean}},
    {"float32 mask", 2, 37, 70, 2, 1, 33, false, 0, 0.0f, {.mask = DType::float32}},
    {"bfloat16 mask", 1, 37, 70, 2, 2, 16, true, 0, 0.0f, {.mask = DType::bfloat16}},
    {"padding", 2, 37, 70, 2, 1, 24, true, 0, 0.0f, {.padding = true}},
    {"lengths", 3, 37, 70, 2, 2, 64, false, 0, 0.0f, {.lengths = true}},
    {"lengths, causal window, softcap", 3, 37, 70, 2, 1, 32, true, 9, 2.0f, {.lengths = true}},
    {"ALiBi", 1, 37, 70, 6, 2, 24, true, 0, 0.0f, {.alibi = true}},
    {"ALiBi to both sides", 1, 70, 37, 2, 1, 16, false, 0, 0.0f, {.alibi = true}},
    {"dropout", 2, 37, 70, 4, 2, 24, false, 0, 0.0f, {.dropout = 0.3f}},
    {"packed", 1, 80, 100, 2, 1, 64, true, 0, 0.0f, {.packed = true}},
    {"packed, window to both sides", 1, 80, 90, 2, 1, 24, false, 7, 0.0f, {.packed = true}},
    {"packed, ALiBi, dropout", 1, 80, 90, 2, 1, 16, true, 0, 0.0f, kPackedOptions},
};

TEST(AttentionOptions, ForwardAndBackwardEqualDouble) {
  for (const Case& c : kCases) expect_equal_to_double(c);
}

// A width for each instance of the CUDA kernels; few queries go another way forward than many.
constexpr index_t kWidths[] = {24, 64, 80, 128, 192, 256};
constexpr Extras kAll{
    .mask = DType::float32, .padding = true, .alibi = true, .lengths = true, .dropout = 0.2f};

TEST(AttentionOptions, AllAtOnceEqualDoubleAtEveryWidth) {
  for (index_t D : kWidths) {
    SCOPED_TRACE(D);
    expect_equal_to_double({"many queries", 2, 38, 70, 2, 1, D, true, 50, 3.0f, kAll});
  }
}

TEST(AttentionOptions, OfFewQueriesNoneAndAllEqualDoubleAtEveryWidth) {
  for (index_t D : kWidths) {
    SCOPED_TRACE(D);
    expect_forward_equals_double({"none", 2, 3, 150, 4, 2, D, true});
    expect_forward_equals_double({"all", 2, 3, 150, 4, 2, D, true, 120, 3.0f, kAll});
  }
}

}  // namespace
}  // namespace fusedlm::test::attention
