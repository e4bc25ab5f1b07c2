#pragma once
// The ways attention is computed, each in a file of its own; attention.cu chooses.
//
//                     forward                         few queries                   backward
//   16-bit elements   attention_forward.cu            attention_decode.cu           attention_backward_*.cu
//   float32           attention_forward_float.cu      attention_forward_float.cu    attention_backward_float.cu

#include "cuda/attention_problem.h"
#include "cuda/attention_scores.h"

namespace fusedlm::FUSEDLM_DEVICE {

void attention_forward_half(const AttentionForward& args, const Problem& p, Context& ctx);
void attention_forward_float(const AttentionForward& args, const Problem& p, Context& ctx);

/// Few queries over many keys: the keys are split over blocks. Rows of the tiles are queries of all
/// heads that share a key-value head.
void attention_decode_half(const AttentionForward& args, const Problem& p, Context& ctx);
void attention_decode_float(const AttentionForward& args, const Problem& p, Context& ctx);

/// `statistics` [B, H, T], of the rows of each head.
void attention_dquery_half(const AttentionBackward& args, const Problem& p,
                           const RowStatistics* statistics, Context& ctx);
void attention_dkeys_half(const AttentionBackward& args, const Problem& p,
                          const RowStatistics* statistics, Context& ctx);
void attention_backward_float(const AttentionBackward& args, const Problem& p,
                              const RowStatistics* statistics, Context& ctx);

/// Blocks of a kernel on a multiprocessor, at least. ptxas chooses well for the plain ones (0: not said);
/// of others it would spill some bytes for one block more.
constexpr int least_blocks(Variant variant) { return variant == Variant::plain ? 0 : 1; }

/// fn(std::integral_constant<Variant, kVariant>), in the forward.
template <class Fn>
void switch_variant(const Problem& p, Fn&& fn) {
  if (p.pages.table) {
    fn(std::integral_constant<Variant, Variant::paged>{});
  } else if (p.options) {
    fn(std::integral_constant<Variant, Variant::options>{});
  } else {
    fn(std::integral_constant<Variant, Variant::plain>{});
  }
}

/// fn(std::bool_constant<kExtras>), in the backward.
template <class Fn>
void switch_extras(const Problem& p, Fn&& fn) {
  if (p.options) {
    fn(std::true_type{});
  } else {
    fn(std::false_type{});
  }
}

}  // namespace fusedlm::FUSEDLM_DEVICE
