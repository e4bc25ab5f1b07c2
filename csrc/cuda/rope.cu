// Rotary position embedding (Su et al. 2021). A thread owns V pairs of a token: it keeps their
// cosines and sines in registers and turns that part of up to kHeads heads, with all loads under
// way before the first store. Without this reuse the float32 tables would be half of what is
// read. Neighbouring threads take neighbouring packs, then neighbouring heads. Where only
// the first R of D elements turn, further threads of the token copy the rest.

#include "cuda/launch.h"
#include "cuda/types.h"
#include "fusedlm/rope.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

constexpr int kBlock = 128;
// Heads of a thread: two packs of each in registers make 32 of them, and a decoding step of one
// token still spreads over a few warps.
constexpr int kHeads = 4;

template <class T>
struct Arguments {
  const T* x;
  T* y;
  const float *cos, *sin;
  const index_t* positions;
  index_t x_batch, x_token, x_head, y_batch, y_token, y_head;
  index_t position_batch, position_token;
  index_t tokens, tokens_per_batch, rows;
  int heads, D, half;
  int turning, packs, groups;  // packs of V pairs that turn, all packs, threads that share a pack
  int tokens_per_block;
  float sign;
};

/// Two packs of V elements: those at `first` and `second`, or all 2 V from `first` on.
template <int V, class T>
struct Halves {
  Pack<T, V> low, high;
};

template <int V, bool kInterleaved, class T>
__global__ void __launch_bounds__(kBlock) rope_kernel(Arguments<T> a) {
  const int units = a.tokens_per_block * a.packs * a.groups;
  for (int unit = threadIdx.x; unit < units; unit += kBlock) {
    const int pack = unit % a.packs, rest = unit / a.packs;
    const int group = rest % a.groups;
    const index_t token = static_cast<index_t>(blockIdx.x) * a.tokens_per_block + rest / a.groups;
    if (token >= a.tokens) break;
    const index_t b = token / a.tokens_per_batch, t = token % a.tokens_per_batch;
    const T* x = a.x + b * a.x_batch + t * a.x_token;
    T* y = a.y + b * a.y_batch + t * a.y_token;
    const bool turns = pack < a.turning;
    // Where the two packs start. What is copied ends at D, maybe with the first of them.
    const int first =
        turns ? pack * V * (kInterleaved ? 2 : 1) : 2 * a.half + (pack - a.turning) * 2 * V;
    const int second = turns && !kInterleaved ? first + a.half : first + V;

    Halves<V, T> v[kHeads];
#pragma unroll
    for (int k = 0; k < kHeads; ++k) {
      const int head = group + k * a.groups;
      if (head >= a.heads) continue;
      v[k].low = Pack<T, V>::load(x + head * a.x_head + first);
      if (second < a.D) v[k].high = Pack<T, V>::load(x + head * a.x_head + second);
    }
    if (turns) {
      const index_t at = a.positions ? a.positions[b * a.position_batch + t * a.position_token] : t;
      float c[V], s[V];
      if (at >= 0 && at < a.rows) {
        load_floats(a.cos + at * a.half + pack * V, c);
        load_floats(a.sin + at * a.half + pack * V, s);
      } else {  // the tables have no such row
#pragma unroll
        for (int j = 0; j < V; ++j) c[j] = s[j] = __uint_as_float(0x7fc00000u);  // NaN
      }
#pragma unroll
      for (int k = 0; k < kHeads; ++k) {
#pragma unroll
        for (int j = 0; j < V; ++j) {
          // Element 2 j of neighbours, j of halves; its partner is the next one, or in `high`.
          const int i = kInterleaved ? 2 * j : j;
          auto& left = i < V ? v[k].low : v[k].high;
          auto& right = kInterleaved && i + 1 < V ? v[k].low : v[k].high;
          const int at_right = kInterleaved ? (i + 1) % V : j;
          const float p = left.get(i % V), q = right.get(at_right), turn = s[j] * a.sign;
          left.set(i % V, p * c[j] - q * turn);
          right.set(at_right, q * c[j] + p * turn);
        }
      }
    }
#pragma unroll
    for (int k = 0; k < kHeads; ++k) {
      const int head = group + k * a.groups;
      if (head >= a.heads) continue;
      v[k].low.store(y + head * a.y_head + first);
      if (second < a.D) v[k].high.store(y + head * a.y_head + second);
    }
  }
}

}  // namespace

void rope(const Rope& args, Context& ctx) {
  const index_t B = args.x.shape[0], T = args.x.shape[1], H = args.x.shape[2], D = args.x.shape[3];
  const index_t half = args.cos.shape[1];
  switch_float(args.x.dtype, [&](auto type) {
    using E = decltype(type);
    const bool packed = can_pack(args.x) && can_pack(args.y) && can_pack(args.cos) &&
                        can_pack(args.sin) && half % kPack<E> == 0 && D % kPack<E> == 0;
    const auto run = [&](auto vector, auto interleaved) {
      constexpr int V = decltype(vector)::value;
      Arguments<E> a{.x = args.x.as<E>(),
                     .y = args.y.as<E>(),
                     .cos = args.cos.as<float>(),
                     .sin = args.sin.as<float>(),
                     .positions = args.positions.as<index_t>(),
                     .x_batch = args.x.strides[0],
                     .x_token = args.x.strides[1],
                     .x_head = args.x.strides[2],
                     .y_batch = args.y.strides[0],
                     .y_token = args.y.strides[1],
                     .y_head = args.y.strides[2],
                     .position_batch = args.positions.strides[0],
                     .position_token = args.positions.strides[1],
                     .tokens = B * T,
                     .tokens_per_batch = T,
                     .rows = args.cos.shape[0],
                     .heads = static_cast<int>(H),
                     .D = static_cast<int>(D),
                     .half = static_cast<int>(half),
                     .turning = static_cast<int>(half / V),
                     .packs = static_cast<int>(half / V + ceil_of<index_t>(D - 2 * half, 2 * V)),
                     .groups = static_cast<int>(ceil_of<index_t>(H, kHeads)),
                     .tokens_per_block = 1,
                     .sign = args.inverse ? -1.0f : 1.0f};
      // Small heads: several tokens fill a block.
      if (a.packs * a.groups < kBlock) a.tokens_per_block = kBlock / (a.packs * a.groups);
      launch("rope", rope_kernel<V, decltype(interleaved)::value, E>,
             blocks_of(ceil_of<index_t>(a.tokens, a.tokens_per_block)), kBlock, 0, ctx, a);
    };
    const auto with_vector = [&](auto vector) {
      if (args.interleaved) {
        run(vector, std::true_type{});
      } else {
        run(vector, std::false_type{});
      }
    };
    if (packed) {
      with_vector(std::integral_constant<int, kPack<E>>{});
    } else {
      with_vector(std::integral_constant<int, 1>{});
    }
  });
}

}  // namespace fusedlm::FUSEDLM_DEVICE
