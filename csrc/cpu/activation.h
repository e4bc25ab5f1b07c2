#pragma once
// Activations and their derivatives, a vector at a time.
// GELU: Hendrycks & Gimpel 2016 (arXiv:1606.08415). SiLU: Elfwing et al. 2017 (arXiv:1702.03118).

#include "cpu/gemm.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

/// The standard normal distribution function, from a rational Chebyshev fit of erfc(z) with a
/// relative error of 1.2e-7 everywhere, so that the far negative side does not cancel.
FUSEDLM_VEC Vec normal_cdf(Vec x) {
  const Vec z = abs(x) * Vec(0.70710678118654752f);
  const Vec t = Vec(1.0f) / fma(z, Vec(0.5f), Vec(1.0f));
  Vec p(0.17087277f);
  p = fma(p, t, Vec(-0.82215223f));
  p = fma(p, t, Vec(1.48851587f));
  p = fma(p, t, Vec(-1.13520398f));
  p = fma(p, t, Vec(0.27886807f));
  p = fma(p, t, Vec(-0.18628806f));
  p = fma(p, t, Vec(0.09678418f));
  p = fma(p, t, Vec(0.37409196f));
  p = fma(p, t, Vec(1.00002368f));
  p = fma(p, t, Vec(-1.26551223f));
  const Vec half_erfc = Vec(0.5f) * t * exp(p - z * z);
  return select_less(x, Vec(0.0f), half_erfc, Vec(1.0f) - half_erfc);
}

constexpr float kTanhScale = 0.79788456080286536f;  // sqrt(2 / pi)
constexpr float kTanhCubic = 0.044715f;

FUSEDLM_VEC Vec activate(Activation kind, Vec x) {
  switch (kind) {
    case Activation::none:
      return x;
    case Activation::relu:
      return max(Vec(0.0f), x);  // NaN stays NaN: the second operand is returned
    case Activation::gelu:
      return x * normal_cdf(x);
    case Activation::gelu_tanh: {
      const Vec u = Vec(kTanhScale) * fma(Vec(kTanhCubic) * x * x, x, x);
      // 0.5 * (1 + tanh(u)) = sigmoid(2 u)
      return x * sigmoid(u + u);
    }
    case Activation::silu:
      return x * sigmoid(x);
  }
  return x;
}

/// d activate(x) / dx.
FUSEDLM_VEC Vec activate_slope(Activation kind, Vec x) {
  switch (kind) {
    case Activation::none:
      return Vec(1.0f);
    case Activation::relu:
      return select_less(Vec(0.0f), x, Vec(1.0f), Vec(0.0f));
    case Activation::gelu:
      return fma(x * Vec(0.39894228040143268f), exp(Vec(-0.5f) * x * x), normal_cdf(x));
    case Activation::gelu_tanh: {
      const Vec u = Vec(kTanhScale) * fma(Vec(kTanhCubic) * x * x, x, x), s = sigmoid(u + u);
      const Vec du = Vec(kTanhScale) * fma(Vec(3.0f * kTanhCubic) * x, x, Vec(1.0f));
      return fma(x * Vec(2.0f) * s * (Vec(1.0f) - s), du, s);
    }
    case Activation::silu: {
      const Vec s = sigmoid(x);
      return fma(x * s, Vec(1.0f) - s, s);
    }
  }
  return Vec(1.0f);
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
