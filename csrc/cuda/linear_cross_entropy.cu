// Linear + cross-entropy in chunks of rows: logits of a chunk by the product, then each row's loss
// and, in place, the gradient of its logits, then at once that chunk's share of dx, dweight and
// dbias. The whole logits never exist, and the forward leaves nothing for the backward to recompute.
//
// A block takes a row of logits, which it reads twice, the second time from L2: once for maximum and
// sum of exponentials together (Milakov & Gimelshein 2018, arXiv:1805.02867), once for the gradient.
// A capped logit is capped again rather than kept. What a mean divides by is added on the GPU too,
// so nothing waits for it.

#include <algorithm>

#include "cuda/elementwise.h"
#include "cuda/gemm.h"
#include "cuda/warp.h"
#include "fusedlm/linear_cross_entropy.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

#if defined(__CUDACC__)
// Logits of a chunk, at most: some 2,600 rows of 50,257 in bfloat16, a small part of what training
// keeps anyway. Each chunk reads and writes the float32 sums of dweight once, as many bytes as 1,500
// such rows of logits, so fewer rows would be slower.
constexpr index_t kChunkBytes = index_t{256} << 20;
constexpr index_t kLeastRows = 128;
#else
constexpr index_t kChunkBytes = 64 << 10, kLeastRows = 32;  // the emulator's tests see several
#endif

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

template <class T>
struct Chunk {
  Classes classes;
  T* logits;  // [rows, stride], of rows first, first + 1, ...
  index_t stride, first;
  const float* sums;      // of sum_weights_kernel
  const float* row_grad;  // or null
  float* losses;
  bool gradients, mean;
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
  __device__ __forceinline__ Row(const Chunk<T>& a, index_t row)
      : a_(a),
        logits_(a.logits + row * a.stride),
        inverse_cap_(a.softcap > 0.0f ? 1.0f / a.softcap : 0.0f) {}

  /// fn(column, l, count): this thread's packs of capped logits; `count` of a pack are in the row.
  template <class Fn>
  __device__ __forceinline__ void for_packs(Fn&& fn) const {
    constexpr int V = kPack<T>;
    for (int c = static_cast<int>(threadIdx.x) * V; c < a_.classes.V; c += kRowThreads * V) {
      const int count = min(V, a_.classes.V - c);
      float l[V];
      if (count == V) {
        load_floats(logits_ + c, l);
#pragma unroll
        for (int j = 0; j < V; ++j) l[j] = capped(l[j]);
      } else {
#pragma unroll
        for (int j = 0; j < V; ++j) {
          l[j] = j < count ? capped(to_float(logits_[c + j])) : -INFINITY;
        }
      }
      fn(c, l, count);
    }
  }

  __device__ __forceinline__ float capped(float x) const {
    return a_.softcap > 0.0f ? a_.softcap * tanhf(x * inverse_cap_) : x;
  }

  /// Log of the sum of exponentials; `weighted` becomes the sum of weight times logit.
  __device__ __forceinline__ float reduce(float& weighted) const {
    float top = -INFINITY, sums[2] = {0.0f, 0.0f};
    for_packs([&](int c, const auto& l, int count) {
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
          if (j < count) sums[1] += class_weight(c + j) * l[j];
        }
      }
    });
    const float maximum = block_max(top);
    if (top != maximum) sums[0] *= exp_of<T>(top - maximum);
    FUSEDLM_DEVICE::block_sum(sums);
    weighted = sums[1];
    return maximum + logf(sums[0]);
  }

  /// Logits -> scale times the gradient of the loss, in place.
  __device__ __forceinline__ void take_slopes(index_t target, float lse, float w, float classes,
                                              float scale) const {
    const float e = a_.smoothing, each = e / static_cast<float>(a_.classes.V);
    const float by_softmax = scale * ((1.0f - e) * w + each * classes + 2.0f * a_.z_loss * w * lse);
    const float by_class = scale * each, by_target = scale * (1.0f - e) * w;
    for_packs([&](int c, auto& l, int count) {
#pragma unroll
      for (int j = 0; j < kPack<T>; ++j) {
        float d = by_softmax * exp_of<T>(l[j] - lse);
        if (e > 0.0f && j < count) d = fmaf(-by_class, class_weight(c + j), d);
        if (c + j == target) d -= by_target;
        if (a_.softcap > 0.0f) {
          const float u = l[j] * inverse_cap_;
          d *= 1.0f - u * u;
        }
        l[j] = d;
      }
      write(c, l, count);
    });
  }

  __device__ __forceinline__ void clear() const {
    const float zeros[kPack<T>] = {};
    for_packs([&](int c, const auto&, int count) { write(c, zeros, count); });
  }

 private:
  __device__ __forceinline__ float class_weight(int v) const {
    return a_.classes.weights ? a_.classes.weights[v] : 1.0f;
  }
  __device__ __forceinline__ void write(int c, const float (&x)[kPack<T>], int count) const {
    if (count == kPack<T>) return store_floats(logits_ + c, x);
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) {
      if (j < count) logits_[c + j] = from_float<T>(x[j]);
    }
  }

  const Chunk<T>& a_;
  T* logits_;
  float inverse_cap_;
};

template <class T>
__global__ void __launch_bounds__(kRowThreads) rows_kernel(Chunk<T> a) {
  const Row<T> row(a, blockIdx.x);
  const index_t n = a.first + blockIdx.x, target = a.classes.targets[n];
  if (target == a.classes.ignored) {
    if (threadIdx.x == 0) a.losses[n] = 0.0f;
    if (a.gradients) row.clear();
    return;
  }
  const bool known = a.classes.in_range(target);
  const float w = a.classes.weight(target);
  // Before the row is overwritten: the barriers of the sums lie between.
  const float at_target =
      known ? row.capped(to_float(a.logits[blockIdx.x * a.stride + target])) : w;
  const float classes = a.sums[1], e = a.smoothing;
  float weighted;
  const float lse = row.reduce(weighted);
  if (threadIdx.x == 0) {
    float loss = (1.0f - e) * w * (lse - at_target) + a.z_loss * w * lse * lse;
    if (e > 0.0f) {
      loss += e / static_cast<float>(a.classes.V) * (classes * lse - weighted);
    }
    a.losses[n] = loss;
  }
  if (!a.gradients) return;
  const float scale = a.row_grad ? a.row_grad[n] : a.mean ? 1.0f / a.sums[0] : 1.0f;
  row.take_slopes(target, lse, w, classes, scale);
}

/// Rows [first, first + count) of a 2-D view.
TensorView rows_from(const TensorView& view, index_t first, index_t count) {
  TensorView part = view;
  part.shape[0] = count;
  part.data = static_cast<char*>(view.data) + first * view.strides[0] * size_of(view.dtype);
  return part;
}

}  // namespace

void linear_cross_entropy(const LinearCrossEntropy& a, Context& ctx) {
  const index_t N = a.x.shape[0], C = a.x.shape[1], V = a.weight.shape[0];
  const DType dtype = a.x.dtype;
  const bool gradients = a.dx.defined() || a.dweight.defined() || a.dbias.defined();
  const bool each = a.reduction == Reduction::none, mean = a.reduction == Reduction::mean;
  // Ready for products once, not in each chunk.
  const TensorView x = operand(a.x, dtype, ctx), weight = operand(a.weight, dtype, ctx);
  const index_t most = std::max(kLeastRows, kChunkBytes / (V * size_of(dtype)));
  const index_t chunks = std::max<index_t>(1, ceil_of(N, most)), chunk = ceil_of(N, chunks);
  const TensorView memory = scratch_rows(dtype, chunk, V, ctx);
  const Classes classes{a.targets.as<int64_t>(), a.class_weight.as<float>(), a.ignore_index, N,
                        static_cast<int>(V)};
  float* sums = device_scratch<float>(ctx, 2);
  launch("linear_cross_entropy: weights", sum_weights_kernel, 1, kSumThreads, 0, ctx, classes,
         sums);
  float* losses = each ? a.loss.as<float>() : device_scratch<float>(ctx, N);
  // Shares of several chunks add up in float32.
  TensorView dweight = a.dweight;
  if (dweight.defined() && dweight.dtype != DType::float32 && chunks > 1) {
    dweight = scratch_rows(DType::float32, V, C, ctx);
  }
  SumScratch scratch;
  // Without rows, one round sets the gradients of the parameters to zero.
  for (index_t i = 0; i < chunks; ++i) {
    const index_t first = i * chunk, rows = std::max<index_t>(0, std::min(chunk, N - first));
    const TensorView part = rows_from(x, first, rows), logits = rows_from(memory, 0, rows);
    gemm({.form = Form::rows_by_rows,
          .dtype = dtype,
          .a = part,
          .b = weight,
          .out = logits,
          .bias = a.bias},
         scratch, ctx);
    switch_float(dtype, [&](auto t) {
      using T = decltype(t);
      const Chunk<T> rows_of_chunk{.classes = classes,
                                   .logits = logits.as<T>(),
                                   .stride = logits.strides[0],
                                   .first = first,
                                   .sums = sums,
                                   .row_grad = each ? a.row_grad.as<float>() : nullptr,
                                   .losses = losses,
                                   .gradients = gradients,
                                   .mean = mean,
                                   .smoothing = a.label_smoothing,
                                   .z_loss = a.z_loss,
                                   .softcap = a.softcap};
      launch("linear_cross_entropy: rows", rows_kernel<T>, blocks_of(rows), kRowThreads, 0, ctx,
             rows_of_chunk);
    });
    if (a.dx.defined()) {
      gemm({.form = Form::rows_by_columns,
            .dtype = dtype,
            .a = logits,
            .b = weight,
            .out = rows_from(a.dx, first, rows)},
           scratch, ctx);
    }
    if (dweight.defined()) {
      gemm({.form = Form::columns_by_columns,
            .dtype = dtype,
            .a = logits,
            .b = part,
            .out = dweight,
            .accumulate = i > 0},
           scratch, ctx);
    }
    if (a.dbias.defined()) column_sums(logits, a.dbias.as<float>(), i > 0, scratch, ctx);
  }
  if (dweight.defined() && dweight.data != a.dweight.data) copy_rows(dweight, a.dweight, ctx);
  if (!each) {
    launch("linear_cross_entropy: loss", total_kernel, 1, kSumThreads, 0, ctx, losses, N,
           mean ? sums : nullptr, a.loss.as<float>());
  }
}

}  // namespace fusedlm::FUSEDLM_DEVICE
