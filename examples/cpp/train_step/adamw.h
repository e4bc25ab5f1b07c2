#pragma once
// AdamW over all parameters in one pass, after clipping by the global norm of the gradients.

#include <fusedlm/adamw.h>

#include <vector>

#include "gpt.h"

class AdamW {
 public:
  AdamW(const std::vector<Parameter*>& parameters, double weight_decay, double max_norm);

  /// Returns the norm of the gradients before clipping.
  double step(double lr);

 private:
  fusedlm::AdamwStep step_;
  double max_norm_;
};
