#pragma once
// Rows of weights times a few rows of x: each weight row is read once from memory and, in pieces of up to
// kTogether rows of x, from L1. What is computed for a row of x, and in which order, does not depend on
// the rows beside it.

#include <type_traits>

#include "cpu/quantized_dot.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

/// x in the forms that the formats of a call need.
struct RowsOfX {
  index_t M = 0, K = 0;
  const float* floats = nullptr;  // [M, K], float_stride apart
  index_t float_stride = 0;
#if defined(FUSEDLM_HAS_INTEGER_DOTS)
  const void* steps[kXForms] = {};  // of each form, [M, step_count]
  index_t step_count = 0;
#endif
};

constexpr bool multiplies_integers([[maybe_unused]] WeightFormat format) {
#if defined(FUSEDLM_HAS_INTEGER_DOTS)
  return format == WeightFormat::int8 || has_blocks(format);
#else
  return false;
#endif
}

namespace detail {

// Two sums for each row of x must fit the registers, beside two vectors of weights.
constexpr index_t kTogether = Vec::size == 16 ? 8 : 4;

// Two vectors of weights. Those of 16 bits come from one access to their line: two halves of it, on
// some cores, keep the prefetching of lines from running ahead (Zen 4: 20 instead of 33 GB/s).
template <class T>
FUSEDLM_VEC void load_two(const T* w, Vec& first, Vec& second) {
#if defined(FUSEDLM_VEC_AVX512)
  if constexpr (sizeof(T) == 2) {
    const __m512i line = _mm512_loadu_si512(w);
    first = Vec::widened<T>(_mm512_castsi512_si256(line));
    second = Vec::widened<T>(_mm512_extracti64x4_epi64(line, 1));
    return;
  }
#endif
  first = Vec::load(w), second = Vec::load(w + Vec::size);
}

template <class T, int rows>
FUSEDLM_VEC void add_products(Vec (&sums)[rows][2], const T* w, const float* x, index_t stride,
                              index_t count) {
  index_t c = 0;
  for (; c + 2 * Vec::size <= count; c += 2 * Vec::size) {
    Vec w0, w1;
    load_two(w + c, w0, w1);
#pragma GCC unroll 8
    for (int m = 0; m < rows; ++m) {
      sums[m][0] = fma(w0, Vec::load(x + m * stride + c), sums[m][0]);
      sums[m][1] = fma(w1, Vec::load(x + m * stride + c + Vec::size), sums[m][1]);
    }
  }
  for (int i = 0; c < count; c += Vec::size, ++i) {
    const index_t n = min_of(Vec::size, count - c);
    const Vec v = n == Vec::size ? Vec::load(w + c) : Vec::load(w + c, n);
#pragma GCC unroll 8
    for (int m = 0; m < rows; ++m) {
      const float* from = x + m * stride + c;
      sums[m][i] = fma(v, n == Vec::size ? Vec::load(from) : Vec::load(from, n), sums[m][i]);
    }
  }
}

template <WeightFormat format, int rows>
FUSEDLM_VEC void float_products(const uint8_t* row, float row_scale, const float* x, index_t stride,
                                index_t K, float* out, index_t out_stride) {
  Vec sums[rows][2];
  if constexpr (!has_blocks(format) && format != WeightFormat::int8) {
    using T = typename ElementOf<format>::type;
    add_products<T, rows>(sums, reinterpret_cast<const T*>(row), x, stride, K);
  } else {
    constexpr index_t kPiece = 256;
    alignas(64) float piece[kPiece];
    for (index_t c = 0; c < K; c += kPiece) {
      const index_t count = min_of(kPiece, K - c);
      dequantize_part<format>(row, row_scale, c, count, piece);
      add_products<float, rows>(sums, piece, x + c, stride, count);
    }
  }
  for (int m = 0; m < rows; ++m) out[m * out_stride] = reduce_sum(sums[m][0] + sums[m][1]);
}

#if defined(FUSEDLM_HAS_INTEGER_DOTS)
template <WeightFormat format, int rows>
FUSEDLM_VEC void integer_products(const uint8_t* row, float row_scale, const XStepFor<format>* x,
                                  index_t step_count, index_t K, float* out, index_t out_stride) {
  Vec sums[rows];
  WeightStep<format> step;
  const index_t whole = K / kStepWeights;
  for (index_t i = 0; i < whole; ++i) {
    step.load(row, i);
#pragma GCC unroll 8
    for (int m = 0; m < rows; ++m) sums[m] = step.add(sums[m], x[m * step_count + i]);
  }
  if constexpr (format != WeightFormat::q4_k && format != WeightFormat::q6_k) {
    if (const index_t left = K % kStepWeights) {
      step.load(row, whole, left);
#pragma GCC unroll 8
      for (int m = 0; m < rows; ++m) sums[m] = step.add(sums[m], x[m * step_count + whole]);
    }
  }
  for (int m = 0; m < rows; ++m) out[m * out_stride] = reduce_sum(sums[m]) * row_scale;
}
#endif

}  // namespace detail

/// sums[m * stride + r] = weight row first + r times row m of x, for r in [0, count).
template <WeightFormat format>
void multiply_rows(const Weight& w, index_t first, index_t count, const RowsOfX& x, float* sums,
                   index_t stride) {
  const index_t bytes = row_bytes(format, w.cols);
  for (index_t r = 0; r < count; ++r) {
    const uint8_t* row = row_of(w, first + r, bytes);
    const float scale = format == WeightFormat::int8 ? w.scales[first + r] : 1.0f;
    const auto some = [&](auto rows, index_t m) {
      float* out = sums + m * stride + r;
      if constexpr (multiplies_integers(format)) {
#if defined(FUSEDLM_HAS_INTEGER_DOTS)
        const auto* steps =
            static_cast<const XStepFor<format>*>(x.steps[static_cast<int>(x_form(format))]);
        detail::integer_products<format, rows()>(row, scale, steps + m * x.step_count, x.step_count,
                                                 x.K, out, stride);
#endif
      } else {
        detail::float_products<format, rows()>(row, scale, x.floats + m * x.float_stride,
                                               x.float_stride, x.K, out, stride);
      }
    };
    index_t m = 0;
    for (; m + detail::kTogether <= x.M; m += detail::kTogether) {
      some(std::integral_constant<int, detail::kTogether>{}, m);
    }
    if (detail::kTogether > 4 && x.M - m >= 4) some(std::integral_constant<int, 4>{}, m), m += 4;
    if (x.M - m >= 2) some(std::integral_constant<int, 2>{}, m), m += 2;
    if (x.M > m) some(std::integral_constant<int, 1>{}, m);
  }
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
