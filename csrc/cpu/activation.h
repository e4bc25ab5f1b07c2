#pragma once
// Activations and their derivatives, a vector at a time.
// GELU: Hendrycks & Gimpel 2016 (arXiv:1606.08415). SiLU: Elfwing et al. 2017 (arXiv:1702.03118).

#include "cpu/gemm.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

// Results that are rounded to bfloat16 lose 2e-3 of themselves anyway: for those (`Out` is bfloat16)
// shorter forms with a relative error of 3e-4 at most do, in half the instructions.

/// The standard normal distribution function, given exp(-x^2 / 2): with z = |x| / sqrt(2),
/// erfc(z) / 2 = exp(-z^2) t p(t) for t = 1 / (1 + a z), p fitted here for z < 9 with a relative error of
/// 2e-8 (a = 0.3) or 4e-5 (a = 0.52). The relative error is small everywhere, so that the far negative
/// side does not cancel.
template <class Out>
FUSEDLM_VEC Vec normal_cdf(Vec x, Vec bell) {
  // Beyond 1e4 the bell is 0 anyway, and infinity would make a NaN of the reciprocal.
  const Vec size = min(Vec(1e4f), abs(x));
  Vec half_erfc;
  if constexpr (sizeof(Out) == 2) {
    const Vec t = reciprocal_rough(fma(size, Vec(0.36769552621700474f), Vec(1.0f)));
    Vec p(-0.0899205764804595f);
    p = fma(p, t, Vec(0.21381971180356082f));
    p = fma(p, t, Vec(0.07308005116368116f));
    p = fma(p, t, Vec(0.15709496963265238f));
    p = fma(p, t, Vec(0.1459457373468859f));
    half_erfc = t * p * bell;
  } else {
    const Vec t = reciprocal(fma(size, Vec(0.21213203435596426f), Vec(1.0f)));
    Vec p(-0.12925440073013306f);
    p = fma(p, t, Vec(0.4841499328613281f));
    p = fma(p, t, Vec(-0.5090879797935486f));
    p = fma(p, t, Vec(0.5436922907829285f));
    p = fma(p, t, Vec(-0.09154415130615234f));
    p = fma(p, t, Vec(0.21342940628528595f));
    p = fma(p, t, Vec(0.14877834916114807f));
    p = fma(p, t, Vec(0.17064355313777924f));
    p = fma(p, t, Vec(0.16919298470020294f));
    half_erfc = Vec(0.5f) * t * p * bell;
  }
  return select_less(x, Vec(0.0f), half_erfc, Vec(1.0f) - half_erfc);
}

/// exp(-x^2 / 2)
template <class Out>
FUSEDLM_VEC Vec bell(Vec x) {
  if constexpr (sizeof(Out) == 2) return exp2_rough(Vec(-0.5f * kLog2E) * x * x);
  return exp(Vec(-0.5f) * x * x);
}

/// 1 / (1 + exp(-x))
template <class Out>
FUSEDLM_VEC Vec sigmoid(Vec x) {
  if constexpr (sizeof(Out) == 2) {
    return reciprocal_rough(Vec(1.0f) + min(Vec(1e29f), exp2_rough(Vec(-kLog2E) * x)));
  }
  return reciprocal(Vec(1.0f) + min(Vec(1e29f), exp(Vec(0.0f) - x)));
}

constexpr float kTanhScale = 0.79788456080286536f;  // sqrt(2 / pi)
constexpr float kTanhCubic = 0.044715f;

/// activation(x), to be stored as Out.
template <class Out, Activation kind>
FUSEDLM_VEC Vec activate(Vec x) {
  if constexpr (kind == Activation::relu) {
    return max(Vec(0.0f), x);  // NaN stays NaN: the second operand is returned
  } else if constexpr (kind == Activation::gelu) {
    return x * normal_cdf<Out>(x, bell<Out>(x));
  } else if constexpr (kind == Activation::gelu_tanh) {
    const Vec u = Vec(kTanhScale) * fma(Vec(kTanhCubic) * x * x, x, x);
    return x * sigmoid<Out>(u + u);  // 0.5 * (1 + tanh(u)) = sigmoid(2 u)
  } else if constexpr (kind == Activation::silu) {
    return x * sigmoid<Out>(x);
  } else {
    return x;
  }
}

/// d activation(x) / dx, for a product that is stored as Out.
template <class Out, Activation kind>
FUSEDLM_VEC Vec activate_slope(Vec x) {
  if constexpr (kind == Activation::relu) {
    return select_less(Vec(0.0f), x, Vec(1.0f), Vec(0.0f));
  } else if constexpr (kind == Activation::gelu) {
    const Vec b = bell<Out>(x);  // shared with activate() where both are taken of the same x
    return fma(x * Vec(0.39894228040143268f), b, normal_cdf<Out>(x, b));
  } else if constexpr (kind == Activation::gelu_tanh) {
    const Vec u = Vec(kTanhScale) * fma(Vec(kTanhCubic) * x * x, x, x), s = sigmoid<Out>(u + u);
    const Vec du = Vec(kTanhScale) * fma(Vec(3.0f * kTanhCubic) * x, x, Vec(1.0f));
    return fma(x * Vec(2.0f) * s * (Vec(1.0f) - s), du, s);
  } else if constexpr (kind == Activation::silu) {
    const Vec s = sigmoid<Out>(x);
    return fma(x * s, Vec(1.0f) - s, s);
  } else {
    return Vec(1.0f);
  }
}

template <Activation kind>
using ActivationKind = std::integral_constant<Activation, kind>;

/// fn(ActivationKind<kind>{}): the choice is made outside the loops.
template <class Fn>
FUSEDLM_VEC void switch_activation(Activation kind, Fn&& fn) {
  switch (kind) {
    case Activation::none:
      return fn(ActivationKind<Activation::none>{});
    case Activation::relu:
      return fn(ActivationKind<Activation::relu>{});
    case Activation::gelu:
      return fn(ActivationKind<Activation::gelu>{});
    case Activation::gelu_tanh:
      return fn(ActivationKind<Activation::gelu_tanh>{});
    case Activation::silu:
      return fn(ActivationKind<Activation::silu>{});
  }
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
