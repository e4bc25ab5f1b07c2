#pragma once
// A row of logits in the hands of a block: shared by cross_entropy, which is given its logits, and
// linear_cross_entropy, which makes them a chunk at a time. fusedlm/cross_entropy.h has the formula.
//
// A row is read twice, the second time from L2: once for maximum and sum of exponentials together
// (Milakov & Gimelshein 2018, arXiv:1805.02867), once for the gradient. A capped logit is capped
// again rather than kept. What a mean divides by is added on the GPU too, so nothing waits for it.

#include "cuda/elementwise.h"
#include "cuda/warp.h"
#include "fusedlm/cross_entropy.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

// A row of 50,257 logits in bfloat16 is 13 packs a thread, which hide their latency; a row of 8,192
// still has a pack for every second thread.
constexpr int kRowThreads = 512;
constexpr int kSumThreads = 256;

/// x where all threads of the block add up, in a fixed order, in float64.
template <int kThreads>
__device__ double block_sum(double x) {
  FUSEDLM_SHARED(double, partial, [kThreads]);
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();  // the last use of `partial` is over
  partial[thread] = x;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) partial[thread] += partial[thread + half];
  }
  __syncthreads();
  return partial[0];
}

/// What the loss knows of classes. A target out of range, which nobody could check on the host, has
/// the weight NaN: its row's loss and gradient show it.
struct Classes {
  const int64_t* targets;
  const float* weights;  // or null
  index_t ignored, N;
  int V;

  __device__ __forceinline__ bool in_range(index_t target) const {
    return target >= 0 && target < V;
  }
  __device__ __forceinline__ float weight(index_t target) const {
    if (!in_range(target)) return __int_as_float(0x7fffffff);
    return weights ? weights[target] : 1.0f;
  }
};

/// Sums over class weights, by one block: [0] of the rows that count, [1] of all classes.
__global__ void __launch_bounds__(kSumThreads) sum_weights_kernel(Classes a, float* sums) {
  double rows = 0.0, classes = 0.0;
  for (index_t n = threadIdx.x; n < a.N; n += kSumThreads) {
    if (a.targets[n] != a.ignored) rows += a.weight(a.targets[n]);
  }
  for (int v = static_cast<int>(threadIdx.x); v < a.V; v += kSumThreads) {
    classes += a.weights ? a.weights[v] : 1.0f;
  }
  rows = block_sum<kSumThreads>(rows);
  classes = block_sum<kSumThreads>(classes);
  if (threadIdx.x == 0) {
    sums[0] = static_cast<float>(rows);
    sums[1] = static_cast<float>(classes);
  }
}

/// loss = sum of losses, divided by *divisor if that is given.
__global__ void __launch_bounds__(kSumThreads)
    total_kernel(const float* losses, index_t N, const float* divisor, float* loss) {
  double total = 0.0;
  for (index_t n = threadIdx.x; n < N; n += kSumThreads) total += losses[n];
  total = block_sum<kSumThreads>(total);
  if (threadIdx.x == 0) *loss = static_cast<float>(divisor ? total / *divisor : total);
}

/// Rows of logits, from row `first` of all on, and where their gradients go (which may be the same).
template <class T>
struct Logits {
  Classes classes;
  const T* logits;  // [rows, stride]
  T* slopes;        // [rows, slope_stride]
  index_t stride, slope_stride, first;
  const float* sums;  // of sum_weights_kernel
  float smoothing, z_loss, softcap;
};

/// exp, where the results are half precision as two instructions.
template <class T>
__device__ __forceinline__ float exp_of(float x) {
  if constexpr (sizeof(T) == 2) return __expf(x);
  return expf(x);
}

template <class T>
class Row {
 public:
  __device__ __forceinline__ Row(const Logits<T>& a, index_t row)
      : a_(a),
        logits_(a.logits + row * a.stride),
        slopes_(a.slopes + row * a.slope_stride),
        target_(a.classes.targets[a.first + row]),
        weight_(a.classes.weight(target_)),
        inverse_cap_(a.softcap > 0.0f ? 1.0f / a.softcap : 0.0f) {}

  __device__ __forceinline__ bool counts() const { return target_ != a_.classes.ignored; }

  /// The logit of the target, NaN if that is out of range.
  __device__ __forceinline__ float at_target() const {
    return a_.classes.in_range(target_) ? capped(to_float(logits_[target_])) : weight_;
  }

  __device__ __forceinline__ float loss(float lse, float weighted, float at_target) const {
    const float e = a_.smoothing;
    float loss = (1.0f - e) * weight_ * (lse - at_target) + a_.z_loss * weight_ * lse * lse;
    if (e > 0.0f) {
      loss += e / static_cast<float>(a_.classes.V) * (a_.sums[1] * lse - weighted);
    }
    return loss;
  }

  /// fn(column, l, whole): this thread's packs of capped logits. Packs lie at multiples of 16 bytes, so that
  /// the first may begin before the row, and the last end behind it; what is outside is -infinity.
  template <class Fn>
  __device__ __forceinline__ void for_packs(Fn&& fn) const {
    constexpr int V = kPack<T>;
    for (int c = static_cast<int>(threadIdx.x) * V - before(logits_); c < a_.classes.V;
         c += kRowThreads * V) {
      const bool whole = c >= 0 && c + V <= a_.classes.V;
      float l[V];
      if (whole) {
        load_floats(logits_ + c, l);
#pragma unroll
        for (int j = 0; j < V; ++j) l[j] = capped(l[j]);
      } else {
#pragma unroll
        for (int j = 0; j < V; ++j) {
          l[j] = in_row(c + j) ? capped(to_float(logits_[c + j])) : -INFINITY;
        }
      }
      fn(c, l, whole);
    }
  }

  __device__ __forceinline__ float capped(float x) const {
    return a_.softcap > 0.0f ? a_.softcap * tanhf(x * inverse_cap_) : x;
  }

  /// Log of the sum of exponentials; `weighted` becomes the sum of weight times logit.
  __device__ __forceinline__ float reduce(float& weighted) const {
    float top = -INFINITY, sums[2] = {0.0f, 0.0f};
    for_packs([&](int c, const auto& l, bool whole) {
      float most = top;
#pragma unroll
      for (int j = 0; j < kPack<T>; ++j) most = fmaxf(most, l[j]);
      // Of nothing but -infinity so far, the differences would be NaN.
      const float shift = most == -INFINITY ? 0.0f : most;
      sums[0] *= exp_of<T>(top - shift);
#pragma unroll
      for (int j = 0; j < kPack<T>; ++j) sums[0] += exp_of<T>(l[j] - shift);
      top = most;
      if (a_.smoothing > 0.0f) {
#pragma unroll
        for (int j = 0; j < kPack<T>; ++j) {
          if (whole || in_row(c + j)) sums[1] += class_weight(c + j) * l[j];
        }
      }
    });
    const float maximum = block_max(top);
    if (top != maximum) sums[0] *= exp_of<T>(top - maximum);
    FUSEDLM_DEVICE::block_sum(sums);
    weighted = sums[1];
    return maximum + logf(sums[0]);
  }

  /// Writes scale times the gradient of the loss.
  __device__ __forceinline__ void take_slopes(float lse, float scale) const {
    const float e = a_.smoothing, each = e / static_cast<float>(a_.classes.V);
    const float w = weight_, classes = a_.sums[1];
    const float by_softmax = scale * ((1.0f - e) * w + each * classes + 2.0f * a_.z_loss * w * lse);
    const float by_class = scale * each, by_target = scale * (1.0f - e) * w;
    for_packs([&](int c, auto& l, bool whole) {
#pragma unroll
      for (int j = 0; j < kPack<T>; ++j) {
        float d = by_softmax * exp_of<T>(l[j] - lse);
        if (e > 0.0f && (whole || in_row(c + j))) d = fmaf(-by_class, class_weight(c + j), d);
        if (c + j == target_) d -= by_target;
        if (a_.softcap > 0.0f) {
          const float u = l[j] * inverse_cap_;
          d *= 1.0f - u * u;
        }
        l[j] = d;
      }
      write(c, l, whole);
    });
  }

  __device__ __forceinline__ void clear() const {
    const float zeros[kPack<T>] = {};
    for_packs([&](int c, const auto&, bool whole) { write(c, zeros, whole); });
  }

 private:
  __device__ __forceinline__ float class_weight(int v) const {
    return a_.classes.weights ? a_.classes.weights[v] : 1.0f;
  }
  __device__ __forceinline__ void write(int c, const float (&x)[kPack<T>], bool whole) const {
    if (whole && before(slopes_) == before(logits_)) return store_floats(slopes_ + c, x);
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) {
      if (in_row(c + j)) slopes_[c + j] = from_float<T>(x[j]);
    }
  }
  __device__ __forceinline__ bool in_row(int c) const { return c >= 0 && c < a_.classes.V; }
  /// Elements between the last multiple of 16 bytes and p.
  __device__ __forceinline__ static int before(const T* p) {
    return static_cast<int>(reinterpret_cast<uintptr_t>(p) / sizeof(T) % kPack<T>);
  }

  const Logits<T>& a_;
  const T* logits_;
  T* slopes_;
  index_t target_;
  float weight_, inverse_cap_;
};

}  // namespace
}  // namespace fusedlm::FUSEDLM_DEVICE
