#pragma once
// Activations by name, as Python gives them.

#include <string>

#include "fusedlm/activation.h"
#include "fusedlm/errors.h"

namespace fusedlm::bindings {

inline Activation activation_from_name(const std::string& op, const std::string& name) {
  if (name == "none") return Activation::none;
  if (name == "relu") return Activation::relu;
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_tanh") return Activation::gelu_tanh;
  if (name == "silu") return Activation::silu;
  throw InvalidArgument(op + ": activation is '" + name +
                        "', expected none, relu, gelu, gelu_tanh or silu");
}

}  // namespace fusedlm::bindings
