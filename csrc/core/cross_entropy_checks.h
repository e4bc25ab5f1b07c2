#pragma once
// The checks that cross_entropy and linear_cross_entropy share.

#include "core/linear_checks.h"
#include "fusedlm/cross_entropy.h"

namespace fusedlm::check {

inline void cross_entropy_options(const char* op, const CrossEntropyOptions& options) {
  const float label_smoothing = options.label_smoothing, z_loss = options.z_loss,
              softcap = options.softcap;
  if (!(label_smoothing >= 0 && label_smoothing <= 1))
    fail(op, "label_smoothing is " + std::to_string(label_smoothing) + ", expected 0 to 1");
  if (!(softcap >= 0)) fail(op, "softcap is " + std::to_string(softcap) + ", expected at least 0");
  if (!(z_loss >= 0)) fail(op, "z_loss is " + std::to_string(z_loss) + ", expected at least 0");
}

/// [N] int64, each within [0, V) or `ignore_index`.
inline void targets_of(const char* op, const TensorView& targets, index_t N, const char* like,
                       index_t V, index_t ignore_index) {
  vector_of(op, "targets", targets, N, like, {DType::int64});
  if (!readable(targets)) return;
  const int64_t* target = targets.as<int64_t>();
  for (index_t n = 0; n < N; ++n) {
    if ((target[n] < 0 || target[n] >= V) && target[n] != ignore_index) {
      fail(op, "targets[" + std::to_string(n) + "] is " + std::to_string(target[n]) +
                   ", expected 0 to " + std::to_string(V - 1) + " or ignore_index " +
                   std::to_string(ignore_index));
    }
  }
}

}  // namespace fusedlm::check
