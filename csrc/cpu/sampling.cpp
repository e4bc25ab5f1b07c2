// Draws tokens, one row a task, without sorting. A row is copied to float32 in groups of 64 logits,
// and the best of each group is noted: mostly that is enough to tell which groups matter.
//
// The k-th best of those peaks is a lower bound for the k-th best logit; the peaks that together weigh
// what top-p wants are one for the last token that it keeps. Tokens from the bound on are gathered, in
// order of id, and the border among them is found by three histograms of 11 bits of their keys, the
// highest bits first: a radix selection (Knuth, TAOCP 3, 5.2.5), exact and without comparisons. Without
// filters, each group's weight is summed, and the draw looks into one group alone.

#include "fusedlm/sampling.h"

#include <limits>

#include "core/sampling_rules.h"
#include "cpu/switch.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

using namespace sampling;

// Four cache lines of float32: few peaks beside the row, and still sixteen of seventeen groups without
// one of the best 50 tokens of 50257.
constexpr index_t kGroup = 64;

/// Tokens in order of id; the arrays are as long as the vocabulary in whole groups.
struct Tokens {
  uint32_t* keys;
  int32_t* ids;
  uint64_t* weights;
  index_t count;
};

struct Row {
  index_t V, groups;
  float* x;           // [V] in whole groups, -inf behind the end
  uint32_t* peaks;    // [groups], the best key of each group; keys of -inf up to whole groups
  uint64_t* weights;  // [groups]
  uint64_t* bins;     // [kBins]
  float best, scale;
};

struct Drawn {
  index_t token;
  float log_prob;
};

index_t whole_groups(index_t count) { return ceil_div(count, kGroup) * kGroup; }

template <class T>
void load_row(const T* logits, Row& row) {
  convert_row(logits, row.V, row.x);
  for (index_t c = row.V; c < row.groups * kGroup; ++c) {
    row.x[c] = -std::numeric_limits<float>::infinity();
  }
}

/// Notes the peaks and the best logit; false for a row that has no distribution.
bool find_peaks(Row& row) {
  const Vec infinity(std::numeric_limits<float>::infinity());
  Vec unfit;
  uint32_t best = 0;
  for (index_t g = 0; g < row.groups; ++g) {
    const float* x = row.x + g * kGroup;
    Vec peak = Vec::load(x);
    for (index_t c = 0; c < kGroup; c += Vec::size) {
      const Vec v = Vec::load(x + c);
      peak = max(peak, v);
      unfit = max(unfit, select_less(v, infinity, Vec(0.0f), Vec(1.0f)));  // NaN is not less
    }
    row.peaks[g] = key_of(reduce_max(peak));
    best = row.peaks[g] > best ? row.peaks[g] : best;
  }
  for (index_t g = row.groups; g < whole_groups(row.groups); ++g)
    row.peaks[g] = kKeyOfMinusInfinity;
  row.best = value_of(best);
  return reduce_max(unfit) == 0.0f && best > kKeyOfMinusInfinity;
}

/// The weights of a group of logits.
void weigh(const Row& row, const float* x, uint64_t* weights) {
  alignas(64) float powers[kGroup];
  for (index_t c = 0; c < kGroup; c += Vec::size) {
    const Vec y = max(Vec(kLowestExponent), (Vec::load(x + c) - Vec(row.best)) * Vec(row.scale));
    const Vec n = round(y), f = y - n;
    Vec p(exp2_coefficient(0));
    for (int i = 1; i < kExp2Terms; ++i) p = p * f + Vec(exp2_coefficient(i));
    scale_by_power(p, n).store(powers + c);
  }
  for (index_t c = 0; c < kGroup; ++c) weights[c] = weight_of(powers[c]);
}

/// The weights of `count` keys; both arrays go on to whole groups.
uint64_t weigh_keys(const Row& row, uint32_t* keys, index_t count, uint64_t* weights) {
  for (index_t i = count; i < whole_groups(count); ++i) keys[i] = kKeyOfMinusInfinity;
  uint64_t total = 0;
  for (index_t first = 0; first < count; first += kGroup) {
    alignas(64) float x[kGroup];
    for (index_t i = 0; i < kGroup; ++i) x[i] = value_of(keys[first + i]);
    weigh(row, x, weights + first);
    for (index_t i = 0; i < kGroup; ++i) total += weights[first + i];
  }
  return total;
}

uint64_t weigh_groups(Row& row) {
  uint64_t total = 0;
  for (index_t g = 0; g < row.groups; ++g) {
    uint64_t weights[kGroup], sum = 0;
    weigh(row, row.x + g * kGroup, weights);
    for (index_t i = 0; i < kGroup; ++i) sum += weights[i];
    row.weights[g] = sum;
    total += sum;
  }
  return total;
}

/// The key at which what counts(i) gives for the keys from the highest down reaches `target`, and how
/// much of the target is left for those that have this very key.
struct Border {
  uint32_t key;
  uint64_t left;
};

template <class Counts>
Border find_border(const uint32_t* keys, index_t count, uint64_t target, uint64_t* bins,
                   Counts&& counts) {
  uint32_t prefix = 0;
  for (int level = 0; level < kDigits; ++level) {
    const int shift = digit_shift(level), bits = digit_bits(level);
    std::memset(bins, 0, kBins * sizeof *bins);
    for (index_t i = 0; i < count; ++i) {
      if (uint64_t{keys[i]} >> (shift + bits) != prefix) continue;
      bins[keys[i] >> shift & ((1u << bits) - 1)] += counts(i);
    }
    uint32_t digit = (1u << bits) - 1;
    while (bins[digit] < target) target -= bins[digit--];
    prefix = prefix << bits | digit;
  }
  return {prefix, target};
}

/// Only the tokens above the border, and as many of those on it, lower ids first, as are left for it.
template <class Counts>
void keep_to(Border border, Tokens& tokens, Counts&& counts) {
  index_t kept = 0;
  for (index_t i = 0; i < tokens.count; ++i) {
    if (tokens.keys[i] < border.key) continue;
    if (tokens.keys[i] == border.key) {
      if (border.left == 0) continue;
      border.left -= counts(i) < border.left ? counts(i) : border.left;
    }
    tokens.keys[kept] = tokens.keys[i];
    tokens.ids[kept] = tokens.ids[i];
    tokens.weights[kept++] = tokens.weights[i];
  }
  tokens.count = kept;
}

void gather(const Row& row, uint32_t lowest, Tokens& tokens) {
  index_t count = 0;
  for (index_t g = 0; g < row.groups; ++g) {
    if (row.peaks[g] < lowest) continue;
    const index_t end = min_of(row.V, (g + 1) * kGroup);
    for (index_t i = g * kGroup; i < end; ++i) {
      const uint32_t key = key_of(row.x[i]);
      tokens.keys[count] = key;
      tokens.ids[count] = static_cast<int32_t>(i);
      count += key >= lowest;
    }
  }
  tokens.count = count;
}

void keep_top_k(const Row& row, index_t k, Tokens& tokens) {
  const auto one = [](index_t) { return uint64_t{1}; };
  const auto target = static_cast<uint64_t>(k);
  gather(row, k < row.groups ? find_border(row.peaks, row.groups, target, row.bins, one).key : 0,
         tokens);
  keep_to(find_border(tokens.keys, tokens.count, target, row.bins, one), tokens, one);
}

/// The tokens that can weigh `target` together, and perhaps others.
void gather_weight(Row& row, uint64_t target, Tokens& tokens) {
  const auto weight = [&](index_t i) { return tokens.weights[i]; };
  const uint64_t peaks = weigh_keys(row, row.peaks, row.groups, tokens.weights);
  gather(row, peaks < target ? 0 : find_border(row.peaks, row.groups, target, row.bins, weight).key,
         tokens);
  weigh_keys(row, tokens.keys, tokens.count, tokens.weights);
}

/// The first i whose weight takes the sum beyond `at`, and what of `at` is left there.
index_t find_weight(const uint64_t* weights, uint64_t& at) {
  index_t i = 0;
  while (at >= weights[i]) at -= weights[i++];
  return i;
}

index_t first_best(const Row& row) {
  index_t g = 0;
  while (value_of(row.peaks[g]) != row.best) ++g;
  index_t i = g * kGroup;
  while (row.x[i] != row.best) ++i;
  return i;
}

Drawn draw(const Sample& a, Row& row, Tokens& tokens, uint64_t bits) {
  if (a.temperature == 0) return {first_best(row), 0.0f};
  bool listed = false;
  uint64_t total = 0;
  if (a.top_k > 0 && a.top_k < row.V) {
    keep_top_k(row, a.top_k, tokens);
    total = weigh_keys(row, tokens.keys, tokens.count, tokens.weights);
    listed = true;
  } else if (a.top_p < 1 || a.min_p == 0) {
    total = weigh_groups(row);
  }
  if (a.top_p < 1) {
    const uint64_t target = part_of(a.top_p, total);
    const auto weight = [&](index_t i) { return tokens.weights[i]; };
    if (!listed) gather_weight(row, target, tokens);
    keep_to(find_border(tokens.keys, tokens.count, target, row.bins, weight), tokens, weight);
    listed = true;
  }
  if (a.min_p > 0) {
    const uint32_t lowest = lowest_key(row.best, a.temperature * std::log(a.min_p));
    if (listed) {
      keep_to({lowest, std::numeric_limits<uint64_t>::max()}, tokens,
              [](index_t) { return uint64_t{1}; });
    } else {
      gather(row, lowest, tokens);
      weigh_keys(row, tokens.keys, tokens.count, tokens.weights);
    }
    listed = true;
  }
  index_t token;
  if (listed) {
    total = 0;
    for (index_t i = 0; i < tokens.count; ++i) total += tokens.weights[i];
    uint64_t at = scaled_to(total, bits);
    token = tokens.ids[find_weight(tokens.weights, at)];
  } else {
    uint64_t at = scaled_to(total, bits), weights[kGroup];
    const index_t g = find_weight(row.weights, at);
    weigh(row, row.x + g * kGroup, weights);
    token = g * kGroup + find_weight(weights, at);
  }
  return {token, log_prob(row.x[token], row.best, a.temperature, total)};
}

}  // namespace

void sample(const Sample& a, Context& ctx) {
  const index_t B = a.logits.shape[0], V = a.logits.shape[1];
  const index_t groups = ceil_div(V, kGroup), padded = groups * kGroup;
  const index_t threads = min_of(num_threads(), B);
  Workspace& ws = ctx.workspace();
  float* x = ws.take<float>(threads * padded);
  uint32_t* peaks = ws.take<uint32_t>(threads * whole_groups(groups));
  uint64_t* group_weights = ws.take<uint64_t>(threads * groups);
  uint64_t* bins = ws.take<uint64_t>(threads * kBins);
  uint32_t* keys = ws.take<uint32_t>(threads * padded);
  int32_t* ids = ws.take<int32_t>(threads * padded);
  // Long enough for the peaks of a row of one group, too.
  uint64_t* weights = ws.take<uint64_t>(threads * padded);
  switch_float(a.logits.dtype, [&](auto type) {
    using T = decltype(type);
    parallel_for(B, [&](index_t b, int t) {
      Row row{V,
              groups,
              x + t * padded,
              peaks + t * whole_groups(groups),
              group_weights + t * groups,
              bins + t * kBins,
              0.0f,
              exponent_scale(a.temperature)};
      Tokens tokens{keys + t * padded, ids + t * padded, weights + t * padded, 0};
      const T* logits = a.logits.row<T>(b);
      load_row(logits, row);
      if (a.repetition_penalty != 1) {
        const auto penalty = static_cast<float>(a.repetition_penalty);
        for (index_t s = 0; s < a.seen.shape[1]; ++s) {
          const index_t token = a.seen.row<index_t>(b)[s];
          if (token >= 0) row.x[token] = penalized(to_float(logits[token]), penalty);
        }
      }
      Drawn drawn{-1, std::numeric_limits<float>::quiet_NaN()};
      if (find_peaks(row)) {
        const index_t number = a.rows.defined() ? a.rows.as<index_t>()[b] : b;
        drawn = draw(a, row, tokens, random_bits(a.seed, static_cast<uint64_t>(number), a.step));
      }
      a.tokens.as<index_t>()[b] = drawn.token;
      if (a.log_probs.defined()) a.log_probs.as<float>()[b] = drawn.log_prob;
    });
  });
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
