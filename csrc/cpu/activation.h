#pragma once
// Activations and their derivatives, a vector at a time.
// GELU: Hendrycks & Gimpel 2016 (arXiv:1606.08415). SiLU: Elfwing et al. 2017 (arXiv:1702.03118).

#include "cpu/gemm.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

/// The standard normal distribution function, given exp(-x^2 / 2): with z = |x| / sqrt(2),
/// erfc(z) = exp(-z^2) t p(t) for t = 1 / (1 + 0.3 z), p fitted here with a relative error of 2e-8 for
/// z < 9. The relative error is small everywhere, so that the far negative side does not cancel.
FUSEDLM_VEC Vec normal_cdf(Vec x, Vec bell) {
  // Beyond 1e4 the bell is 0 anyway, and infinity would make a NaN of the reciprocal.
  const Vec t = reciprocal(fma(min(Vec(1e4f), abs(x)), Vec(0.21213203435596426f), Vec(1.0f)));
  Vec p(-0.12925440073013306f);
  p = fma(p, t, Vec(0.4841499328613281f));
  p = fma(p, t, Vec(-0.5090879797935486f));
  p = fma(p, t, Vec(0.5436922907829285f));
  p = fma(p, t, Vec(-0.09154415130615234f));
  p = fma(p, t, Vec(0.21342940628528595f));
  p = fma(p, t, Vec(0.14877834916114807f));
  p = fma(p, t, Vec(0.17064355313777924f));
  p = fma(p, t, Vec(0.16919298470020294f));
  const Vec half_erfc = Vec(0.5f) * t * p * bell;
  return select_less(x, Vec(0.0f), half_erfc, Vec(1.0f) - half_erfc);
}

/// exp(-x^2 / 2)
FUSEDLM_VEC Vec bell(Vec x) { return exp(Vec(-0.5f) * x * x); }

constexpr float kTanhScale = 0.79788456080286536f;  // sqrt(2 / pi)
constexpr float kTanhCubic = 0.044715f;

FUSEDLM_VEC Vec activate(Activation kind, Vec x) {
  switch (kind) {
    case Activation::none:
      return x;
    case Activation::relu:
      return max(Vec(0.0f), x);  // NaN stays NaN: the second operand is returned
    case Activation::gelu:
      return x * normal_cdf(x, bell(x));
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
    case Activation::gelu: {
      const Vec b = bell(x);  // shared with activate() where both are taken of the same x
      return fma(x * Vec(0.39894228040143268f), b, normal_cdf(x, b));
    }
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
