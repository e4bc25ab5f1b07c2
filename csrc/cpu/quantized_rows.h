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
  bool ahead = false;             // weights are asked for before they are read
  const float* floats = nullptr;  // [M, K], float_stride apart
  index_t float_stride = 0;
#if defined(FUSEDLM_HAS_INTEGER_DOTS)
  RoundedRows rounded;
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
// How far ahead of the multiplication weights are asked for, if at all: far enough for a memory that gives a
// core 40 bytes a nanosecond. Half of L1 would be too much: x lies there.
constexpr index_t kAhead = 8192;

FUSEDLM_VEC void fetch(const uint8_t* p, index_t bytes) {
  for (index_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i, 0, 3);
}

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

// One row of weights times rows of x, lane by lane; and what is left to do with a sum of the lanes.
template <WeightFormat format>
struct FloatRow {
  index_t K, stride;
  const float *x, *scales;

  FloatRow(const Weight& w, const RowsOfX& rows)
      : K(rows.K), stride(rows.float_stride), x(rows.floats), scales(w.scales) {}

  template <int rows>
  FUSEDLM_VEC void multiply(const uint8_t* row, index_t r, index_t m, Vec (&out)[rows]) const {
    Vec sums[rows][2];
    const float* from = x + m * stride;
    if constexpr (!has_blocks(format) && format != WeightFormat::int8) {
      using T = typename ElementOf<format>::type;
      add_products<T, rows>(sums, reinterpret_cast<const T*>(row), from, stride, K);
    } else {
      constexpr index_t kPiece = 256;
      alignas(64) float piece[kPiece];
      const float scale = format == WeightFormat::int8 ? scales[r] : 1.0f;
      for (index_t c = 0; c < K; c += kPiece) {
        const index_t count = min_of(kPiece, K - c);
        dequantize_part<format>(row, scale, c, count, piece);
        add_products<float, rows>(sums, piece, from + c, stride, count);
      }
    }
    for (int i = 0; i < rows; ++i) out[i] = sums[i][0] + sums[i][1];
  }
  template <class... N>
  FUSEDLM_VEC Vec finish(Vec sums, index_t, index_t, N...) const {
    return sums;
  }
};

#if defined(FUSEDLM_HAS_INTEGER_DOTS)
template <WeightFormat format>
struct IntegerRow {
  index_t whole, left;
  const RoundedRows& x;
  const float* scales;
  LastBytes last;

  IntegerRow(const Weight& w, const RowsOfX& rows)
      : whole(rows.K / kStepWeights),
        left(rows.K % kStepWeights),
        x(rows.rounded),
        scales(w.scales),
        last(row_bytes_of<format>(left)) {}

  template <int rows>
  FUSEDLM_VEC void multiply(const uint8_t* row, index_t, index_t m, Vec (&out)[rows]) const {
    RowSums sums[rows];
    WeightStep<format> step;
    const index_t from = m * x.steps;
    for (index_t i = 0; i < whole; ++i) {
      step.load(row, i);
#pragma GCC unroll 8
      for (int n = 0; n < rows; ++n) step.add(sums[n], {x, from + n * x.steps + i});
    }
    if constexpr (format != WeightFormat::q4_k && format != WeightFormat::q6_k) {
      if (left) {
        step.load(row, whole, last);
#pragma GCC unroll 8
        for (int n = 0; n < rows; ++n) step.add(sums[n], {x, from + n * x.steps + whole});
      }
    }
    for (int n = 0; n < rows; ++n) out[n] = sums[n].all();
  }
  template <class... N>
  FUSEDLM_VEC Vec finish(Vec sums, index_t r, index_t m, N... n) const {
    if constexpr (format != WeightFormat::int8) return sums;
    return (sums - Vec(x.offsets[m])) * Vec::load(scales + r, n...);
  }
};
template <WeightFormat format>
using RowFor =
    std::conditional_t<multiplies_integers(format), IntegerRow<format>, FloatRow<format>>;
#else
template <WeightFormat format>
using RowFor = FloatRow<format>;
#endif

}  // namespace detail

/// sums[r] = weight row first + r times the row of x, for r in [0, count); there is room for whole vectors.
template <WeightFormat format>
void multiply_row(const Weight& w, index_t first, index_t count, const RowsOfX& x, float* sums) {
  const detail::RowFor<format> products(w, x);
  const index_t bytes = row_bytes(format, x.K);
  for (index_t r = 0; r < count; r += Vec::size) {
    const index_t some = min_of(Vec::size, count - r);
    // The sums of many rows of weights over their lanes at once: the same bits as one by one.
    Vec lanes[Vec::size];
    for (index_t i = 0; i < some; ++i) {
      const uint8_t* row = row_of(w, first + r + i, bytes);
      if (x.ahead) detail::fetch(row + detail::kAhead, bytes);
      Vec sum[1];
      products.multiply(row, first + r + i, 0, sum);
      lanes[i] = sum[0];
    }
    products.finish(reduce_sums(lanes), first + r, 0, some).store(sums + r);
  }
}

/// sums[m * stride + r] = weight row first + r times row m of x, for r in [0, count).
template <WeightFormat format>
void multiply_rows(const Weight& w, index_t first, index_t count, const RowsOfX& x, float* sums,
                   index_t stride) {
  const detail::RowFor<format> products(w, x);
  const index_t bytes = row_bytes(format, w.cols);
  for (index_t r = 0; r < count; ++r) {
    const uint8_t* row = row_of(w, first + r, bytes);
    const auto some = [&](auto rows, index_t m) {
      Vec lanes[rows()];
      products.multiply(row, first + r, m, lanes);
      for (int i = 0; i < rows(); ++i) {
        products.finish(Vec(reduce_sum(lanes[i])), first + r, m + i, 1)
            .store(sums + (m + i) * stride + r, 1);
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
