#pragma once
// Reductions by name, as Python gives them.

#include <string>

#include "fusedlm/cross_entropy.h"
#include "fusedlm/errors.h"

namespace fusedlm::bindings {

inline Reduction reduction_from_name(const std::string& op, const std::string& name) {
  if (name == "mean") return Reduction::mean;
  if (name == "sum") return Reduction::sum;
  if (name == "none") return Reduction::none;
  throw InvalidArgument(op + ": reduction is '" + name + "', expected mean, sum or none");
}

}  // namespace fusedlm::bindings
