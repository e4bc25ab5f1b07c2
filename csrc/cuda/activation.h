#pragma once
// Activations and their derivatives in float32, as csrc/cpu/activation.h defines them.
// GELU: Hendrycks & Gimpel 2016 (arXiv:1606.08415). SiLU: Elfwing et al. 2017 (arXiv:1702.03118).

#include "cuda/platform.h"
#include "fusedlm/activation.h"

namespace fusedlm::FUSEDLM_DEVICE {

/// The standard normal distribution function, given exp(-x^2 / 2): with z = |x| / sqrt(2),
/// erfc(z) = exp(-z^2) t p(t) for t = 1 / (1 + 0.3 z); the fit of the CPU's twin. Half the
/// instructions of erfcf, and the derivative needs the bell as well.
__device__ __forceinline__ float normal_cdf(float x, float bell) {
  // Beyond 1e4 the bell is 0 anyway, and infinity would make a NaN of the reciprocal.
  const float t = __fdividef(1.0f, fmaf(fminf(1e4f, fabsf(x)), 0.21213203435596426f, 1.0f));
  float p = -0.12925440073013306f;
  p = fmaf(p, t, 0.4841499328613281f);
  p = fmaf(p, t, -0.5090879797935486f);
  p = fmaf(p, t, 0.5436922907829285f);
  p = fmaf(p, t, -0.09154415130615234f);
  p = fmaf(p, t, 0.21342940628528595f);
  p = fmaf(p, t, 0.14877834916114807f);
  p = fmaf(p, t, 0.17064355313777924f);
  p = fmaf(p, t, 0.16919298470020294f);
  const float half_erfc = 0.5f * t * p * bell;
  return x < 0.0f ? half_erfc : 1.0f - half_erfc;
}

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + expf(-x)); }

/// activation(x) and its derivative. GELU and SiLU are x times a function that rises from 0 to 1,
/// and two of the three share theirs: one piece of code, as every place that activates holds it.
struct Activated {
  float value, slope;
};
__device__ __forceinline__ Activated activate(Activation kind, float x) {
  if (kind == Activation::none) return {x, 1.0f};
  if (kind == Activation::relu) return {x < 0.0f ? 0.0f : x, x > 0.0f ? 1.0f : 0.0f};  // NaN stays
  float rise, slope;
  if (kind == Activation::gelu) {
    const float bell = expf(-0.5f * x * x);
    rise = normal_cdf(x, bell);
    slope = 0.39894228040143268f * bell;
  } else {
    float u = x, du = 1.0f;
    if (kind == Activation::gelu_tanh) {  // 0.5 (1 + tanh(u)) = sigmoid(2 u)
      constexpr float kScale = 2.0f * 0.79788456080286536f, kCubic = 0.044715f;  // 2 sqrt(2 / pi)
      u = kScale * fmaf(kCubic * x * x, x, x);
      du = kScale * fmaf(3.0f * kCubic * x, x, 1.0f);
    }
    rise = sigmoid(u);
    slope = rise * (1.0f - rise) * du;
  }
  return {x * rise, fmaf(x, slope, rise)};
}

}  // namespace fusedlm::FUSEDLM_DEVICE
