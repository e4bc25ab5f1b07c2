// Cross-entropy of logits that are given: memory-bound, so that what counts is how often they are
// touched. The forward reads each row from memory once (twice from L2: maximum, then exponentials) and
// keeps one float of it, the log of the sum; the backward reads it once more and writes the gradient. No
// copy of the logits in float32 and no log-probabilities exist. A capped row (float32) lies in the thread's
// scratch while it is worked on.

#include "fusedlm/cross_entropy.h"

#include "cpu/cross_entropy_row.h"
#include "cpu/switch.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

/// Scratch for a capped row of each thread, or null.
template <class Args>
float* rows_for_capped(const Args& a, Context& ctx) {
  return a.options.softcap > 0 ? ctx.workspace().take<float>(num_threads() * a.logits.shape[1])
                               : nullptr;
}

template <class T>
void forward_row(const CrossEntropyForward& a, const RowLoss& loss, index_t n, float* capped,
                 float* losses) {
  const index_t V = a.logits.shape[1], target = a.targets.as<int64_t>()[n];
  float& lse = a.lse.as<float>()[n];
  if (target == a.options.ignore_index) {
    losses[n] = lse = 0.0f;
    return;
  }
  const T* row = a.logits.row<T>(n);
  const RowSums sums = reduce_row<T>(loss, plain_row(row, V), plain_row(capped, V));
  lse = sums.lse;
  const float at_target = capped ? capped[target] : to_float(row[target]);
  losses[n] = loss_of_row(loss, sums, at_target, target, V);
}

template <class T>
void backward_row(const CrossEntropyBackward& a, const RowLoss& loss, index_t n, float* capped,
                  float scale) {
  const index_t V = a.logits.shape[1], target = a.targets.as<int64_t>()[n];
  T* out = a.dlogits.row<T>(n);
  if (target == a.options.ignore_index) {
    __builtin_memset(out, 0, static_cast<size_t>(V) * sizeof(T));
    return;
  }
  const T* row = a.logits.row<T>(n);
  const float lse = a.lse.as<float>()[n];
  const LogitRow slopes = plain_row(out, V);
  if (!capped) return slope_row<T, T>(loss, plain_row(row, V), slopes, target, lse, scale);
  cap_row(loss, row, capped, V);
  slope_row<T, float>(loss, plain_row(capped, V), slopes, target, lse, scale);
}

}  // namespace

void cross_entropy_forward(const CrossEntropyForward& a, Context& ctx) {
  const index_t N = a.logits.shape[0], V = a.logits.shape[1];
  const Reduction reduction = a.options.reduction;
  const WeightSums sums = sum_weights(a.targets, a.class_weight, V, a.options.ignore_index);
  const RowLoss loss = row_loss(a, sums);
  float* capped = rows_for_capped(a, ctx);
  float* losses =
      reduction == Reduction::none ? a.loss.as<float>() : ctx.workspace().take<float>(N);
  switch_float(a.logits.dtype, [&](auto t) {
    parallel_for(N, [&](index_t n, int thread) {
      forward_row<decltype(t)>(a, loss, n, capped ? capped + thread * V : nullptr, losses);
    });
  });
  if (reduction == Reduction::none) return;
  *a.loss.as<float>() = loss_of_rows(reduction, sums, losses, N);
}

void cross_entropy_backward(const CrossEntropyBackward& a, Context& ctx) {
  const index_t N = a.logits.shape[0], V = a.logits.shape[1];
  const bool each = a.options.reduction == Reduction::none;
  const WeightSums sums = sum_weights(a.targets, a.class_weight, V, a.options.ignore_index);
  const RowLoss loss = row_loss(a, sums);
  float* capped = rows_for_capped(a, ctx);
  const float* dloss = a.dloss.as<float>();
  const float share = share_of_row(a.options.reduction, sums);
  switch_float(a.logits.dtype, [&](auto t) {
    parallel_for(N, [&](index_t n, int thread) {
      backward_row<decltype(t)>(a, loss, n, capped ? capped + thread * V : nullptr,
                                share * dloss[each ? n : 0]);
    });
  });
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
