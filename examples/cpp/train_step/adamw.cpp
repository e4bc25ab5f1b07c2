#include "adamw.h"

#include <algorithm>

using fusedlm::Context;

AdamW::AdamW(const std::vector<Parameter*>& parameters, double weight_decay, double max_norm)
    : max_norm_(max_norm) {
  step_.beta1 = 0.9;
  step_.beta2 = 0.95;
  step_.eps = 1e-8;
  for (const Parameter* p : parameters) {
    step_.params.push_back(p->value);
    step_.grads.push_back(p->grad);
    step_.exp_avgs.push_back(p->mean);
    step_.exp_avg_sqs.push_back(p->variance);
    const bool matrix = p->value.view().ndim == 2;
    step_.weight_decays.push_back(matrix ? weight_decay : 0);
    step_.steps.push_back(0);
  }
  step_.lrs.resize(parameters.size());
}

double AdamW::step(double lr) {
  double norm = 0;
  fusedlm::grad_norm({.grads = step_.grads, .norm = &norm}, Context::current());
  step_.clip_scale = norm > max_norm_ ? max_norm_ / norm : 1;
  std::fill(step_.lrs.begin(), step_.lrs.end(), lr);
  for (index_t& count : step_.steps) ++count;
  fusedlm::adamw_step(step_, Context::current());
  return norm;
}
