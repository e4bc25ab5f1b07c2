// Attention against a reference in double that forms every score.

#include <limits>

#include "attention_reference.h"

namespace fusedlm::test::attention {
namespace {

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

TEST(Attention, ForwardAndBackwardEqualDouble) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    for (DType dtype : all_float_types()) {
      SCOPED_TRACE(name_of(dtype));
      const Inputs in(c, dtype);
      const Truth truth = Reference(c, in).truth;
      on_every_isa_for(dtype, [&] { expect_same(run(c, in, dtype), truth, dtype); });
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

/// Query, key and value of each token one after the other, as one product makes them.
struct Joined {
  Buffer all;
  index_t H, G;

  Joined(const Case& c, DType dtype) : all({c.B, c.T, c.H + 2 * c.G, c.D}, dtype), H(c.H), G(c.G) {}
  TensorView query() const { return heads(0, H); }
  TensorView key() const { return heads(H, G); }
  TensorView value() const { return heads(H + G, G); }

 private:
  TensorView heads(index_t first, index_t count) const {
    TensorView view = all.view();
    view.data = view.as<char>() + first * view.strides[2] * size_of(view.dtype);
    view.shape[2] = count;
    return view;
  }
};

/// fn(byte of `part`, byte of `dense`) for all elements of a part of a joined buffer.
template <class Fn>
void for_bytes(const TensorView& part, const Buffer& dense, Fn fn) {
  const index_t size = size_of(part.dtype), row = part.shape[2] * part.shape[3] * size;
  for (index_t token = 0; token < part.shape[0] * part.shape[1]; ++token) {
    for (index_t i = 0; i < row; ++i)
      fn(part.as<char>()[token * part.strides[1] * size + i],
         dense.view().as<char>()[token * row + i]);
  }
}

TEST(Attention, QueryKeyAndValueInOneBufferGiveTheBitsOfThoseApart) {
  const Case c{"", 2, 37, 37, 2, 1, 24, true};
  for (DType dtype : all_float_types()) {
    SCOPED_TRACE(name_of(dtype));
    const Inputs in(c, dtype);
    const Joined inputs(c, dtype);
    const auto fill = [](char& to, char from) { to = from; };
    for_bytes(inputs.query(), in.query, fill);
    for_bytes(inputs.key(), in.key, fill);
    for_bytes(inputs.value(), in.value, fill);
    on_every_isa_for(dtype, [&] {
      const Outputs apart = run(c, in, dtype), o(c, dtype);
      const Joined gradients(c, dtype);
      const AttentionOptions options = options_of(c, in);
      attention_forward(
          {inputs.query(), inputs.key(), inputs.value(), o.out.view(), o.lse.view(), options},
          Context::current());
      attention_backward(
          {in.dout.view(), inputs.query(), inputs.key(), inputs.value(), o.out.view(), o.lse.view(),
           gradients.query(), gradients.key(), gradients.value(), options},
          Context::current());
      EXPECT_TRUE(o.out == apart.out && o.lse == apart.lse);
      bool same = true;
      const auto compare = [&](char a, char b) { same = same && a == b; };
      for_bytes(gradients.query(), apart.dquery, compare);
      for_bytes(gradients.key(), apart.dkey, compare);
      for_bytes(gradients.value(), apart.dvalue, compare);
      EXPECT_TRUE(same) << "gradients";
    });
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
}  // namespace fusedlm::test::attention
