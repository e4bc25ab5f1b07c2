#pragma once
#include "fusedlm/device.h"
#include "fusedlm/tensor.h"

namespace fusedlm {

/// Draws one token a row from logits [B, V]. In this order, as Hugging Face transformers has it:
///   repetition_penalty  divides positive and multiplies negative logits of the tokens in `seen`, each
///                       once (Keskar et al. 2019, arXiv:1909.05858); 1: off
///   temperature         divides the logits; 0: the most likely token
///   top_k               keeps the k most likely tokens (Fan et al. 2018, arXiv:1805.04833); 0: off
///   top_p               keeps the smallest set of most likely tokens, of those, whose probabilities add
///                       up to p (Holtzman et al. 2020, arXiv:1904.09751); 1: off
///   min_p               keeps tokens at least min_p times as likely as the best (Nguyen et al. 2024,
///                       arXiv:2407.01082); 0: off
/// Equally likely tokens rank by id, the lower first, at the border of a set and without temperature.
/// The best token is always kept. A kept token is drawn where the cumulative probability, in order of
/// id, passes a number in [0, 1) from Philox4x32-10 (Salmon et al. 2011), a function of (seed, number
/// of the row, step). Probabilities are integers, in units of 2^-40 of the best, so their sums have no
/// order: the tokens are the same for any number of threads, on every instruction set and on a GPU.
///   logits     [B, V]  float32 or bfloat16, rows contiguous, 0 < V < 2^23
///   seen       [B, S]  int64, rows contiguous, -1 where there is none; needed for the penalty alone
///   rows       [B]     int64, the number of each row; undefined: 0, 1, ... B - 1
///   tokens     [B]     int64, written
///   log_probs  [B]     float32, written: of the token among those kept (0 at temperature 0); may be
///                      undefined
/// Throws as every op (errors.h). A row has no distribution if, after the penalty, it holds NaN or +inf, or
/// nothing but -inf: then InvalidArgument, too, once the other rows are written; on a GPU, where nobody
/// looks, such a row's token is -1 and its log_prob NaN.
struct Sample {
  TensorView logits, seen{}, rows{}, tokens, log_probs{};
  double temperature = 1.0;
  index_t top_k = 0;
  double top_p = 1.0, min_p = 0.0, repetition_penalty = 1.0;
  uint64_t seed = 0;
  uint32_t step = 0;
};
void sample(const Sample& args, Context& ctx);

}  // namespace fusedlm
