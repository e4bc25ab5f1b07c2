// Weights to their formats, row by row: scales at the least squared error (quantize_fit.h), then each
// weight to the nearest level of the scales as they are stored.

#include <atomic>

#include "core/weight_checks.h"
#include "cpu/quantize_fit.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

FUSEDLM_VEC float put_half(uint8_t* p, float x) {
  const float16 half = to_float16(x);
  std::memcpy(p, &half, sizeof half);
  return to_float(half);
}
FUSEDLM_VEC uint8_t level(float x, float low, float high) {
  return static_cast<uint8_t>(static_cast<int>(nearest(x, low, high) - low));
}

template <int n>
FUSEDLM_VEC float largest(const float* x) {
  float most = 0;
  for (int i = 0; i < n; ++i) {
    const float size = x[i] < 0 ? -x[i] : x[i];
    most = size > most ? size : most;
  }
  return most;
}

template <WeightFormat format>
void quantize_block(const float* x, uint8_t* p);

template <>
void quantize_block<WeightFormat::q8_0>(const float* x, uint8_t* p) {
  const float inverse = reciprocal_or_zero(put_half(p, largest<32>(x) / 127.0f));
  for (int i = 0; i < 32; ++i) {
    p[2 + i] = static_cast<uint8_t>(static_cast<int>(nearest(x[i] * inverse, -127, 127)));
  }
}

template <>
void quantize_block<WeightFormat::q4_0>(const float* x, uint8_t* p) {
  const float inverse = reciprocal_or_zero(put_half(p, fit_scale<32>(x, -8)));
  for (int i = 0; i < 16; ++i) {
    p[2 + i] = level(x[i] * inverse, -8, 7) | level(x[i + 16] * inverse, -8, 7) << 4;
  }
}

template <>
void quantize_block<WeightFormat::q4_1>(const float* x, uint8_t* p) {
  const ScaleAndOffset fit = fit_scale_and_offset<32>(x, 16, false);
  const float inverse = reciprocal_or_zero(put_half(p, fit.scale));
  const float offset = put_half(p + 2, fit.offset);
  for (int i = 0; i < 16; ++i) {
    p[4 + i] =
        level((x[i] - offset) * inverse, 0, 15) | level((x[i + 16] - offset) * inverse, 0, 15) << 4;
  }
}

// Scales and minima of the sub-blocks are themselves rounded to 6 bits of common ones; each pair then takes
// that of its neighbours which leaves the least error.
template <>
void quantize_block<WeightFormat::q4_k>(const float* x, uint8_t* p) {
  ScaleAndOffset fits[8];
  float scale = 0, minimum = 0;
  for (int j = 0; j < 8; ++j) {
    fits[j] = fit_scale_and_offset<32>(x + 32 * j, 16, true);
    scale = fits[j].scale > scale ? fits[j].scale : scale;
    minimum = -fits[j].offset > minimum ? -fits[j].offset : minimum;
  }
  scale = put_half(p, scale / 63.0f);
  minimum = put_half(p + 2, minimum / 63.0f);
  uint8_t scales[8], minima[8];
  for (int j = 0; j < 8; ++j) {
    const float s0 = nearest(fits[j].scale * reciprocal_or_zero(scale), 0, 63),
                m0 = nearest(-fits[j].offset * reciprocal_or_zero(minimum), 0, 63);
    float least = INFINITY;
    for (float s = s0 > 0 ? s0 - 1 : 0; s <= s0 + 1 && s < 64; ++s) {
      for (float m = m0 > 0 ? m0 - 1 : 0; m <= m0 + 1 && m < 64; ++m) {
        const float error = squared_error<32>(x + 32 * j, scale * s, -(minimum * m), 0, 15);
        if (error < least) {
          least = error;
          scales[j] = static_cast<uint8_t>(s);
          minima[j] = static_cast<uint8_t>(m);
        }
      }
    }
  }
  for (int j = 0; j < 4; ++j) {
    p[4 + j] = scales[j] | scales[j + 4] >> 4 << 6;
    p[8 + j] = minima[j] | minima[j + 4] >> 4 << 6;
    p[12 + j] = (scales[j + 4] & 15) | minima[j + 4] << 4;
  }
  uint8_t* nibbles = p + Block<WeightFormat::q4_k>::kNibbles;
  for (int j = 0; j < 8; ++j) {
    const float inverse = reciprocal_or_zero(scale * static_cast<float>(scales[j])),
                offset = minimum * static_cast<float>(minima[j]);
    for (int i = 0; i < 32; ++i) {
      const uint8_t q = level((x[32 * j + i] + offset) * inverse, 0, 15);
      uint8_t& to = nibbles[j / 2 * 32 + i];
      to = j % 2 ? to | q << 4 : q;
    }
  }
}

template <>
void quantize_block<WeightFormat::q6_k>(const float* x, uint8_t* p) {
  using B = Block<WeightFormat::q6_k>;
  float fits[16], most = 0;
  for (int j = 0; j < 16; ++j) {
    fits[j] = fit_scale<16>(x + 16 * j, -32);
    const float size = fits[j] < 0 ? -fits[j] : fits[j];
    most = size > most ? size : most;
  }
  const float scale = put_half(p + B::kScale, most / 127.0f);
  std::memset(p, 0, B::kScales);
  for (int j = 0; j < 16; ++j) {
    const float s0 = nearest(fits[j] * reciprocal_or_zero(scale), -127, 127);
    float least = INFINITY, chosen = 0;
    for (float s = s0 - 1; s <= s0 + 1 && s < 128; ++s) {
      const float error = squared_error<16>(x + 16 * j, scale * s, 0, -32, 31);
      if (error < least) least = error, chosen = s;
    }
    p[B::kScales + j] = static_cast<uint8_t>(static_cast<int>(chosen));
    const float inverse = reciprocal_or_zero(scale * chosen);
    for (int i = 0; i < 16; ++i) {
      const uint8_t q = level(x[16 * j + i] * inverse, -32, 31);
      const int half = j / 8, part = j % 8, at = 16 * part + i;  // of the half
      p[64 * half + at % 64] |= (q & 15) << part / 4 * 4;
      p[B::kHigh + 32 * half + at % 32] |= q >> 4 << part / 2 * 2;
    }
  }
}

template <WeightFormat format>
void quantize_row(const float* x, index_t cols, uint8_t* out, float* scale) {
  if constexpr (has_blocks(format)) {
    using B = Block<format>;
    for (index_t c = 0; c < cols; c += B::kSize, out += B::kBytes)
      quantize_block<format>(x + c, out);
  } else if constexpr (format == WeightFormat::int8) {
    float most = 0;
    for (index_t c = 0; c < cols; ++c) {
      const float size = x[c] < 0 ? -x[c] : x[c];
      most = size > most ? size : most;
    }
    *scale = most / 127.0f;
    // A scale that is no normal number has no reciprocal.
    const float inverse = most > 1e-30f ? 127.0f / most : 0.0f;
    for (index_t c = 0; c < cols; ++c) {
      out[c] = static_cast<uint8_t>(static_cast<int>(nearest(x[c] * inverse, -127, 127)));
    }
  } else {
    using T = typename ElementOf<format>::type;
    for (index_t c = 0; c < cols; ++c) {
      T element;
      if constexpr (format == WeightFormat::float16) {
        element = to_float16(x[c]);
      } else {
        element = from_float<T>(x[c]);
      }
      std::memcpy(out + c * sizeof(T), &element, sizeof element);
    }
  }
}

// Whether all of a row lies within [-bound, bound].
bool fits(const float* x, index_t cols, float bound) {
  for (index_t c = 0; c < cols; ++c) {
    if (!(x[c] <= bound && x[c] >= -bound)) return false;
  }
  return true;
}

}  // namespace

void quantize(const Quantize& a, Context& ctx) {
  const index_t rows = a.x.shape[0], cols = a.x.shape[1], bytes = row_bytes(a.format, cols);
  // The others have scales, or elements, in float16.
  const bool wide = a.format == WeightFormat::float32 || a.format == WeightFormat::bfloat16 ||
                    a.format == WeightFormat::int8;
  const float bound = wide ? 3.4028234e38f : 65504.0f;
  const bool widen = a.x.dtype == DType::bfloat16;
  auto* widened = ctx.workspace().take<float>(num_threads() * cols);
  std::atomic<index_t> unfit{rows};
  parallel_for(rows, [&](index_t r, int thread) {
    const float* x = widened + thread * cols;
    if (widen) {
      const bfloat16* from = a.x.row<bfloat16>(r);
      for (index_t c = 0; c < cols; ++c) widened[thread * cols + c] = to_float(from[c]);
    } else {
      x = a.x.row<float>(r);
    }
    if (!fits(x, cols, bound)) {
      index_t first = unfit.load();
      while (r < first && !unfit.compare_exchange_weak(first, r)) {
      }
      return;
    }
    switch_format(a.format, [&](auto format) {
      quantize_row<decltype(format)::value>(x, cols, static_cast<uint8_t*>(a.data) + r * bytes,
                                            a.scales ? a.scales + r : nullptr);
    });
  });
  if (unfit.load() < rows) check::refuse_row(unfit.load(), a.format, wide);
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
