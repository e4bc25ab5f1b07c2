#pragma once
#include <cstdint>

namespace fusedlm {

/// gelu is the exact form through erf, gelu_tanh its approximation (Hendrycks & Gimpel 2016,
/// arXiv:1606.08415); silu is x * sigmoid(x).
enum class Activation : uint8_t { none, relu, gelu, gelu_tanh, silu };

}  // namespace fusedlm
