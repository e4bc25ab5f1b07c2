// Draws tokens, one block a row, without sorting. The row is read again for each step, from L2: the
// best logit; for top-k and for top-p the border of the set, bit by bit, by three histograms of 11
// bits of the keys in shared memory; and the draw. Where equals at a border are cut, and in the draw,
// the block looks for a place in order of id: each warp sums its part of the range, the part with the
// place becomes the range, until it is one warp wide. Counts and weights are integers, so neither the
// order of the atomics nor the split shows in the result, which is the CPU's, bit for bit.

#include <cmath>
#include <limits>

#include "core/sampling_rules.h"
#include "cuda/launch.h"
#include "cuda/types.h"
#include "cuda/warp.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

using namespace sampling;

// Half of what a multiprocessor holds: batches are small, and of these threads each has enough to read
// (98 logits of 50257), while the 2048 bins are 4 a thread.
constexpr int kBlock = 512;
constexpr int kWarps = kBlock / kWarp;
constexpr int kBinsOfThread = kBins / kBlock;

template <class T>
struct Args {
  const T* logits;
  const index_t* rows;
  index_t* tokens;
  float* log_probs;
  index_t stride;
  uint64_t seed;
  double temperature, top_p, margin;
  float scale;
  uint32_t step;
  int V, top_k;
  bool min_p;
};

/// A row of V logits, to be read in packs of kVector.
template <class T, int kVector>
struct Row {
  const T* x;
  int V;

  /// fn(i, x[i]) for begin <= i < end, dealt to `members` threads; begin is a multiple of kVector.
  template <class Fn>
  __device__ __forceinline__ void each(int begin, int end, int member, int members, Fn&& fn) const {
    for (int i = begin + member * kVector; i < end; i += members * kVector) {
      if (kVector == 1 || i + kVector <= end) {
        float v[kVector];
        load_floats(x + i, v);
#pragma unroll
        for (int j = 0; j < kVector; ++j) fn(i + j, v[j]);
      } else {
        for (int j = i; j < end; ++j) fn(j, to_float(x[j]));
      }
    }
  }
  template <class Fn>
  __device__ __forceinline__ void each_of_block(Fn&& fn) const {
    each(0, V, threadIdx.x, kBlock, fn);
  }
};

/// The tokens that are kept: above a key, and of those with this very key up to `last`.
struct Cut {
  uint32_t key = 0;
  int last = std::numeric_limits<int>::max();

  __device__ __forceinline__ bool keeps(uint32_t key_of_token, int i) const {
    return key_of_token > key || (key_of_token == key && i <= last);
  }
};

struct Weigh {
  float best, scale;

  __device__ __forceinline__ uint64_t operator()(float x) const {
    const float y = fmaxf(kLowestExponent, __fmul_rn(__fsub_rn(x, best), scale));
    const float n = rintf(y), f = __fsub_rn(y, n);
    float p = exp2_coefficient(0);
#pragma unroll
    for (int i = 1; i < kExp2Terms; ++i) p = __fadd_rn(__fmul_rn(p, f), exp2_coefficient(i));
    return weight_of(p * __uint_as_float(static_cast<uint32_t>(127 + static_cast<int>(n)) << 23));
  }
};

struct One {
  __device__ __forceinline__ uint64_t operator()(float) const { return 1; }
};

__device__ __forceinline__ uint64_t block_largest(uint64_t x) {
  FUSEDLM_SHARED(uint64_t, largest, [kWarps]);
#pragma unroll
  for (int by = kWarp / 2; by > 0; by /= 2) {
    const uint64_t other = __shfl_xor_sync(kAllLanes, x, by);
    x = other > x ? other : x;
  }
  if (lane_id() == 0) largest[warp_id()] = x;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) x = largest[w] > x ? largest[w] : x;
  return x;
}

/// What the steps of a row share: sums of warps, and 64-bit bins in halves, because shared memory
/// adds 32 bits in one instruction.
struct Shared {
  uint64_t warps[kWarps];
  uint64_t above, within;
  uint32_t digit;
  uint32_t low[kBins], high[kBins];

  __device__ __forceinline__ uint64_t bin(int d) const { return uint64_t{high[d]} << 32 | low[d]; }
  __device__ __forceinline__ void add(int d, uint64_t units) {
    const auto part = static_cast<uint32_t>(units);
    const uint32_t before = atomicAdd(&low[d], part);
    const uint32_t carry = static_cast<uint32_t>(units >> 32) + (before + part < before);
    if (carry) atomicAdd(&high[d], carry);
  }
};

/// From the highest bin down: the one where the sum reaches `target` (into digit), the sum before it
/// (above) and its own (within).
__device__ __forceinline__ void find_bin(Shared& shared, uint64_t target) {
  const int highest = kBins - 1 - static_cast<int>(threadIdx.x) * kBinsOfThread;
  uint64_t sum = 0;
#pragma unroll
  for (int j = 0; j < kBinsOfThread; ++j) sum += shared.bin(highest - j);
  uint64_t above = warp_prefix(sum);
  if (lane_id() == kWarp - 1) shared.warps[warp_id()] = above;
  above -= sum;
  __syncthreads();
  for (int w = 0; w < warp_id(); ++w) above += shared.warps[w];
  if (above < target && target <= above + sum) {
    int d = highest;
    while (above + shared.bin(d) < target) above += shared.bin(d--);
    shared.digit = d;
    shared.above = above;
    shared.within = shared.bin(d);
  }
  __syncthreads();
}

/// The first i where the sum of units(i, x) goes beyond `target_of(sum of all)`, which is less.
template <class R, class Units, class Target>
__device__ __forceinline__ int find_place(const R& row, Shared& shared, Units units,
                                          Target target_of) {
  int begin = 0, end = row.V;
  uint64_t target = 0;
  for (bool all = true; all || end - begin > kWarp; all = false) {
    const int part = ceil_of(ceil_of(end - begin, kWarps), kWarp) * kWarp;
    const int mine = begin + warp_id() * part;
    uint64_t sum = 0;
    row.each(mine, min(end, mine + part), lane_id(), kWarp,
             [&](int i, float x) { sum += units(i, x); });
    sum = warp_sum(sum);
    __syncthreads();  // the sums of the round before have been read
    if (lane_id() == 0) shared.warps[warp_id()] = sum;
    __syncthreads();
    if (all) {
      uint64_t total = 0;
      for (int w = 0; w < kWarps; ++w) total += shared.warps[w];
      target = target_of(total);
    }
    int w = 0;
    while (target >= shared.warps[w]) target -= shared.warps[w++];
    begin += w * part;
    end = min(end, begin + part);
  }
  const int i = begin + lane_id();
  const uint64_t upto = warp_prefix(i < end ? units(i, to_float(row.x[i])) : 0);
  return begin + __ffs(static_cast<int>(__ballot_sync(kAllLanes, upto > target))) - 1;
}

/// Of the tokens that `cut` keeps, the best whose units(x) reach `target` together, which all do.
template <class R, class Units>
__device__ __forceinline__ Cut tightened(const R& row, Shared& shared, Cut cut, uint64_t target,
                                         Units units) {
  uint32_t prefix = 0;
  for (int level = 0; level < kDigits; ++level) {
    const int shift = digit_shift(level), bits = digit_bits(level);
    __syncthreads();  // digit and bins have been read
    for (int d = threadIdx.x; d < kBins; d += kBlock) shared.low[d] = shared.high[d] = 0;
    __syncthreads();
    row.each_of_block([&](int i, float x) {
      const uint32_t key = key_of(x);
      if (cut.keeps(key, i) && uint64_t{key} >> (shift + bits) == prefix) {
        shared.add(key >> shift & ((1u << bits) - 1), units(x));
      }
    });
    __syncthreads();
    find_bin(shared, target);
    target -= shared.above;
    prefix = prefix << bits | shared.digit;
  }
  const uint64_t each = units(value_of(prefix)), wanted = (target + each - 1) / each;
  if (wanted * each >= shared.within) {
    return {prefix, prefix == cut.key ? cut.last : Cut{}.last};
  }
  const int last = find_place(
      row, shared,
      [&](int i, float x) -> uint64_t { return key_of(x) == prefix && cut.keeps(prefix, i); },
      [&](uint64_t) { return wanted - 1; });
  return {prefix, last};
}

template <class T, int kVector>
__global__ void __launch_bounds__(kBlock, 2) sample_kernel(Args<T> a) {
  FUSEDLM_SHARED(Shared, memory, [1]);
  Shared& shared = memory[0];
  const index_t b = blockIdx.x;
  const Row<T, kVector> row{a.logits + b * a.stride, a.V};

  // The best key, and of its tokens the first: its id counts down.
  uint64_t best = 0;
  row.each_of_block([&](int i, float x) {
    const uint64_t ranked = uint64_t{key_of(x)} << 32 | ~static_cast<uint32_t>(i);
    best = ranked > best ? ranked : best;
  });
  best = block_largest(best);
  const auto best_key = static_cast<uint32_t>(best >> 32);
  const bool fits = best_key > kKeyOfMinusInfinity && best_key < kKeyOfInfinity;
  if (!fits || a.temperature == 0) {
    if (threadIdx.x == 0) {
      a.tokens[b] = fits ? ~static_cast<uint32_t>(best) : index_t{-1};
      if (a.log_probs) a.log_probs[b] = fits ? 0.0f : __uint_as_float(0x7fc00000u);
    }
    return;  // the whole block
  }

  const Weigh weigh{value_of(best_key), a.scale};
  Cut cut;
  const auto kept_weight = [&](int i, float x) {
    return cut.keeps(key_of(x), i) ? weigh(x) : uint64_t{0};
  };
  if (a.top_k) cut = tightened(row, shared, cut, static_cast<uint64_t>(a.top_k), One{});
  if (a.top_p < 1) {
    uint64_t sum = 0;
    row.each_of_block([&](int i, float x) { sum += kept_weight(i, x); });
    sum = warp_sum(sum);
    __syncthreads();
    if (lane_id() == 0) shared.warps[warp_id()] = sum;
    __syncthreads();
    uint64_t total = 0;
    for (int w = 0; w < kWarps; ++w) total += shared.warps[w];
    cut = tightened(row, shared, cut, part_of(a.top_p, total), weigh);
  }
  if (a.min_p) {
    const uint32_t lowest = lowest_key(weigh.best, a.margin);
    if (lowest > cut.key) cut = Cut{.key = lowest};
  }

  uint64_t total = 0;
  const int token = find_place(row, shared, kept_weight, [&](uint64_t all) {
    total = all;
    const auto number = static_cast<uint64_t>(a.rows ? a.rows[b] : b);
    return scaled_to(all, random_bits(a.seed, number, a.step));
  });
  if (threadIdx.x == 0) {
    a.tokens[b] = token;
    if (a.log_probs) {
      a.log_probs[b] = log_prob(to_float(row.x[token]), weigh.best, a.temperature, total);
    }
  }
}

/// out[b] = logits[b] as float32, those of the tokens in seen[b] penalized. One block a row.
template <class T>
__global__ void __launch_bounds__(kBlock)
    penalize_kernel(const T* logits, index_t stride, const index_t* seen, index_t seen_stride,
                    index_t S, int V, float penalty, float* out, index_t out_stride) {
  logits += blockIdx.x * stride;
  seen += blockIdx.x * seen_stride;
  out += blockIdx.x * out_stride;
  for (int i = threadIdx.x; i < V; i += kBlock) out[i] = to_float(logits[i]);
  __syncthreads();
  for (index_t s = threadIdx.x; s < S; s += kBlock) {
    const index_t token = seen[s];
    if (token < 0 || token >= V) continue;
    // From what came in, so that a token seen twice gets the same value twice.
    atomicExch(&out[token], penalized(to_float(logits[token]), penalty));
  }
}

template <class T>
void launch_sample(const Sample& args, const T* logits, index_t stride, bool packed, Context& ctx) {
  const index_t B = args.logits.shape[0], V = args.logits.shape[1];
  const Args<T> a{.logits = logits,
                  .rows = args.rows.as<index_t>(),
                  .tokens = args.tokens.as<index_t>(),
                  .log_probs = args.log_probs.as<float>(),
                  .stride = stride,
                  .seed = args.seed,
                  .temperature = args.temperature,
                  .top_p = args.top_p,
                  .margin = args.min_p > 0 ? args.temperature * std::log(args.min_p) : 0.0,
                  .scale = exponent_scale(args.temperature),
                  .step = args.step,
                  .V = static_cast<int>(V),
                  .top_k = args.top_k < V ? static_cast<int>(args.top_k) : 0,
                  .min_p = args.min_p > 0};
  const auto kernel = packed ? sample_kernel<T, kPack<T>> : sample_kernel<T, 1>;
  launch("sample", kernel, blocks_of(B), kBlock, 0, ctx, a);
}

}  // namespace

void sample(const Sample& args, Context& ctx) {
  const index_t B = args.logits.shape[0], V = args.logits.shape[1];
  switch_float(args.logits.dtype, [&](auto type) {
    using T = decltype(type);
    if (args.repetition_penalty == 1) {
      launch_sample(args, args.logits.as<T>(), args.logits.strides[0], can_pack(args.logits), ctx);
      return;
    }
    const index_t stride = ceil_of<index_t>(V, kPack<float>) * kPack<float>;
    float* penalized_logits = device_scratch<float>(ctx, B * stride);
    launch("sample", penalize_kernel<T>, blocks_of(B), kBlock, 0, ctx, args.logits.as<T>(),
           args.logits.strides[0], args.seen.as<index_t>(), args.seen.strides[0],
           args.seen.shape[1], static_cast<int>(V), static_cast<float>(args.repetition_penalty),
           penalized_logits, stride);
    launch_sample(args, penalized_logits, stride, true, ctx);
  });
}

}  // namespace fusedlm::FUSEDLM_DEVICE
