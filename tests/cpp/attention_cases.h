#pragma once
// Calls of attention with any of its options: their inputs, what they write, and both passes.

#include "fusedlm/attention.h"
#include "support.h"

namespace fusedlm::test::attention {

/// What is added to the scores, hidden or dropped, and sequences of other lengths than T and S.
struct Extras {
  DType mask = DType::other;  // boolean, or what is added; other: none
  bool padding = false, alibi = false, lengths = false, packed = false;
  float dropout = 0.0f;
};

struct Case {
  const char* name;
  index_t B, T, S, H, G, D;
  bool causal = false;
  index_t window = 0;
  float softcap = 0.0f;
  Extras extras{};
};

constexpr uint64_t kDropoutSeed = 0x123456789abcdef0;

/// Integers i -> value(i) as a buffer.
template <class Value>
Buffer filled(std::initializer_list<index_t> shape, DType dtype, Value value) {
  Buffer buffer(shape, dtype);
  for (index_t i = 0; i < buffer.size(); ++i) buffer.set(i, value(i));
  return buffer;
}

struct Inputs {
  Buffer query, key, value, dout;
  Buffer mask, padding, slopes, lengths, cu_q, cu_k;

  Inputs(const Case& c, DType dtype)
      : query(random({c.B, c.T, c.H, c.D}, 0, dtype, 2.0)),
        key(random({c.B, c.S, c.G, c.D}, 1, dtype, 2.0)),
        value(random({c.B, c.S, c.G, c.D}, 2, dtype)),
        dout(random({c.B, c.T, c.H, c.D}, 3, dtype)),
        mask(mask_of(c)),
        padding(
            filled({c.B, c.S}, DType::boolean, [](index_t i) { return i % 5 != 1 && i % 7 != 0; })),
        slopes(filled({c.H}, DType::float32, [](index_t h) { return 0.3 / (1.0 + h); })),
        // The last sequence of three has no keys.
        lengths(filled({c.B}, DType::int32, [&](index_t b) { return c.S - b * c.S / 2; })),
        cu_q({4}, DType::int32, std::vector<index_t>{0, c.T / 3, c.T / 3, c.T - 2}),
        cu_k({4}, DType::int32, std::vector<index_t>{0, c.S / 2, c.S / 2 + 3, c.S - 1}) {}

 private:
  // Query 2 sees nothing.
  static Buffer mask_of(const Case& c) {
    if (c.extras.mask == DType::other) return Buffer({0});
    const bool boolean = c.extras.mask == DType::boolean;
    return filled({c.B, c.H, c.T, c.S}, c.extras.mask, [&](index_t i) {
      const bool hidden = i / c.S % c.T == 2 || i % 11 % 3 == 1;
      return boolean ? !hidden : hidden ? -INFINITY : std::sin(static_cast<double>(i));
    });
  }
};

/// Of a mask that is added, float32 is shared by the rows of a batch and 16 bits by the heads.
inline TensorView mask_view(const Case& c, const Inputs& in) {
  if (c.extras.mask == DType::other) return {};
  TensorView mask = in.mask.view();
  if (mask.dtype == DType::float32) mask.strides[0] = 0;
  if (mask.dtype == DType::bfloat16) mask.strides[1] = 0;
  return mask;
}

inline AttentionOptions options_of(const Case& c, const Inputs& in) {
  const auto given = [](bool is, const Buffer& b) { return is ? b.view() : TensorView(); };
  const Extras& e = c.extras;
  return {.causal = c.causal,
          .window = c.window,
          .scale = 1.0f / std::sqrt(static_cast<float>(c.D)),
          .softcap = c.softcap,
          .dropout_p = e.dropout,
          .seed = kDropoutSeed,
          .mask = mask_view(c, in),
          .key_padding_mask = given(e.padding, in.padding),
          .alibi_slopes = given(e.alibi, in.slopes),
          .cu_seqlens_q = given(e.packed, in.cu_q),
          .cu_seqlens_k = given(e.packed, in.cu_k),
          .kv_lengths = given(e.lengths, in.lengths)};
}

struct Outputs {
  Buffer out, lse, dquery, dkey, dvalue;
  Outputs(const Case& c, DType dtype)
      : out({c.B, c.T, c.H, c.D}, dtype),
        lse({c.B, c.H, c.T}),
        dquery({c.B, c.T, c.H, c.D}, dtype),
        dkey({c.B, c.S, c.G, c.D}, dtype),
        dvalue({c.B, c.S, c.G, c.D}, dtype) {}
};

inline Outputs run_forward(const Case& c, const Inputs& in, DType dtype) {
  Outputs o(c, dtype);
  attention_forward({in.query.view(), in.key.view(), in.value.view(), o.out.view(), o.lse.view(),
                     options_of(c, in)},
                    Context::current());
  return o;
}

inline Outputs run(const Case& c, const Inputs& in, DType dtype) {
  Outputs o = run_forward(c, in, dtype);
  const AttentionOptions options = options_of(c, in);
  attention_backward({in.dout.view(), in.query.view(), in.key.view(), in.value.view(), o.out.view(),
                      o.lse.view(), o.dquery.view(), o.dkey.view(), o.dvalue.view(), options},
                     Context::current());
  return o;
}

}  // namespace fusedlm::test::attention
