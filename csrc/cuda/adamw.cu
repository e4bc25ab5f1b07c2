// Global gradient norm and AdamW (Loshchilov & Hutter 2019) over many tensors in few launches: what
// a kernel must know of its tensors comes in the kernel's parameters (4 KiB at most), so nothing is
// copied to the device first. Every tensor is cut into chunks, a block each; a block finds its
// tensor by bisection of the first block numbers. Element types and alignment are looked at once a
// block, so tensors of all types share a launch.
//
// The norm: each thread sums the squares of 64 elements in float32, a block its threads in double, a
// last block the chunks in double. All in an order that depends on the shapes alone. The step reads
// and writes everything once, in accesses of 16 bytes (float32) and 8 (half types).

#include <cmath>

#include "cuda/launch.h"
#include "cuda/types.h"
#include "cuda/warp.h"
#include "fusedlm/adamw.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

constexpr int kBlock = 256;
// Elements of a block: 64 a thread, which float32 adds up without loss that counts.
constexpr int kNormChunk = 64 * kBlock;
// Elements of a block: 4 rounds of the loop, so that finding the tensor costs little.
constexpr int kStepChunk = 4096;

/// Tensors of one launch, and the block that each starts with.
template <class Tensor, int kTensors>
struct Batch {
  static constexpr int kCapacity = kTensors;
  Tensor tensors[kTensors];
  unsigned first_block[kTensors];
  int count;
  unsigned blocks;

  __device__ __forceinline__ int find(unsigned block) const {
    int low = 0, high = count - 1;
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (first_block[middle] <= block) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return low;
  }
};

/// Calls run(batch) with the tensors make(i), as many at a time as fit.
template <class Batch, class Make, class Run>
void in_batches(const std::vector<TensorView>& views, int chunk, Make&& make, Run&& run) {
  Batch batch{};
  for (size_t i = 0; i < views.size(); ++i) {
    const index_t blocks = ceil_of<index_t>(views[i].numel(), chunk);
    if (blocks == 0) continue;
    if (batch.count == Batch::kCapacity || batch.blocks + blocks > 0x7fffffff) {
      run(batch);
      batch.count = batch.blocks = 0;
    }
    batch.tensors[batch.count] = make(i);
    batch.first_block[batch.count++] = batch.blocks;
    batch.blocks += blocks_of(blocks);
  }
  if (batch.count > 0) run(batch);
}

bool aligned(const TensorView& view) { return reinterpret_cast<uintptr_t>(view.data) % 16 == 0; }

template <class Fn>
__device__ __forceinline__ void switch_float_type(DType dtype, Fn&& fn) {
  if (dtype == DType::float32) {
    fn(float{});
  } else if (dtype == DType::bfloat16) {
    fn(bfloat16{});
  } else {
    fn(float16{});
  }
}

// ---- norm ------------------------------------------------------------------------------------

struct Gradient {
  const void* data;
  index_t count;
  DType dtype;
  bool packed;
};
// 28 bytes each.
using Gradients = Batch<Gradient, 144>;

/// The sum of a block, for its first thread.
__device__ __forceinline__ double block_sum_of(double x) {
  FUSEDLM_SHARED(double, partial, [kBlock / kWarp]);
  x = warp_sum(x);
  if (lane_id() == 0) partial[warp_id()] = x;
  __syncthreads();
  if (threadIdx.x == 0) {
    x = 0.0;
#pragma unroll
    for (int w = 0; w < kBlock / kWarp; ++w) x += partial[w];
  }
  return x;
}

/// Squares of the elements of this thread, those of packs that lie kBlock apart.
template <class T>
__device__ __forceinline__ double thread_squares(const T* data, int count, bool packed) {
  constexpr int V = kPack<T>;
  const auto for_packs = [&](auto&& fn) {
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x) * V; i < count; i += kBlock * V) {
      float x[V];
      if (packed && i + V <= count) {
        load_floats(data + i, x);
      } else {
#pragma unroll
        for (int j = 0; j < V; ++j) x[j] = i + j < count ? to_float(data[i + j]) : 0.0f;
      }
      fn(x);
    }
  };
  float sum = 0.0f, largest = 0.0f;
  for_packs([&](const float (&x)[V]) {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      sum = fmaf(x[j], x[j], sum);
      largest = fmaxf(largest, fabsf(x[j]));
    }
  });
  if (sum > 1e-30f && sum < 1e38f) return sum;
  if (sum == 0.0f && largest == 0.0f) return 0.0;
  // Squares beyond float32's range, at either end, are taken again in double.
  double wide = 0.0;
  for_packs([&](const float (&x)[V]) {
#pragma unroll
    for (int j = 0; j < V; ++j) wide += static_cast<double>(x[j]) * x[j];
  });
  return wide;
}

__global__ void __launch_bounds__(kBlock) squares_kernel(Gradients a, double* sums) {
  const int i = a.find(blockIdx.x);
  const index_t first = static_cast<index_t>(blockIdx.x - a.first_block[i]) * kNormChunk;
  const index_t left = a.tensors[i].count - first;
  const int count = left < kNormChunk ? static_cast<int>(left) : kNormChunk;
  double sum = 0.0;
  switch_float_type(a.tensors[i].dtype, [&](auto type) {
    using T = decltype(type);
    sum = thread_squares(static_cast<const T*>(a.tensors[i].data) + first, count,
                         a.tensors[i].packed);
  });
  sum = block_sum_of(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kBlock)
    norm_kernel(const double* sums, index_t count, double* norm) {
  double sum = 0.0;
#pragma unroll 4
  for (index_t i = threadIdx.x; i < count; i += kBlock) sum += sums[i];
  sum = block_sum_of(sum);
  if (threadIdx.x == 0) *norm = sqrt(sum);
}

// ---- step ------------------------------------------------------------------------------------

struct Parameter {
  void* param;
  const void* grad;
  float *exp_avg, *exp_avg_sq;
  index_t count;
  float decay, step_size, root_correction;
  DType param_dtype, grad_dtype;
  bool packed;
};
// 60 bytes each.
using Parameters = Batch<Parameter, 64>;

struct Rule {
  float clip, beta1, beta1_rest, beta2, beta2_rest, eps;
};

/// V neighbouring elements, `count` of which are there; wide accesses where `packed`.
template <int V, class T>
__device__ __forceinline__ void load_some(const T* from, int count, bool packed, float (&x)[V]) {
  if (packed && count >= V) {
    load_floats(from, x);
  } else {
#pragma unroll
    for (int j = 0; j < V; ++j) x[j] = j < count ? to_float(from[j]) : 0.0f;
  }
}
template <int V, class T>
__device__ __forceinline__ void store_some(T* to, int count, bool packed, const float (&x)[V]) {
  if (packed && count >= V) {
    store_floats(to, x);
  } else {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      if (j < count) to[j] = from_float<T>(x[j]);
    }
  }
}

__global__ void __launch_bounds__(kBlock) step_kernel(Parameters a, Rule rule) {
  constexpr int V = 4;
  const int index = a.find(blockIdx.x);
  const Parameter& t = a.tensors[index];
  const index_t first = static_cast<index_t>(blockIdx.x - a.first_block[index]) * kStepChunk;
  const index_t left = t.count - first;
  const int count = left < kStepChunk ? static_cast<int>(left) : kStepChunk;
  float *exp_avg = t.exp_avg + first, *exp_avg_sq = t.exp_avg_sq + first;
  const float decay = t.decay, step_size = t.step_size, root_correction = t.root_correction;
  const bool packed = t.packed;
  switch_float_type(t.param_dtype, [&](auto param_type) {
    switch_float_type(t.grad_dtype, [&](auto grad_type) {
      using P = decltype(param_type);
      using G = decltype(grad_type);
      P* param = static_cast<P*>(t.param) + first;
      const G* grad = static_cast<const G*>(t.grad) + first;
      for (int i = static_cast<int>(threadIdx.x) * V; i < count; i += kBlock * V) {
        float p[V], g[V], m[V], v[V];
        load_some(param + i, count - i, packed, p);
        load_some(grad + i, count - i, packed, g);
        load_some(exp_avg + i, count - i, packed, m);
        load_some(exp_avg_sq + i, count - i, packed, v);
#pragma unroll
        for (int j = 0; j < V; ++j) {
          const float clipped = g[j] * rule.clip;
          m[j] = fmaf(clipped, rule.beta1_rest, m[j] * rule.beta1);
          v[j] = fmaf(clipped * clipped, rule.beta2_rest, v[j] * rule.beta2);
          const float root = fmaf(sqrtf(v[j]), root_correction, rule.eps);
          p[j] = p[j] * decay - step_size * (m[j] / root);
        }
        store_some(exp_avg + i, count - i, packed, m);
        store_some(exp_avg_sq + i, count - i, packed, v);
        store_some(param + i, count - i, packed, p);
      }
    });
  });
}

}  // namespace

void grad_norm(const GradNorm& args, Context& ctx) {
  index_t chunks = 0;
  for (const TensorView& grad : args.grads) chunks += ceil_of<index_t>(grad.numel(), kNormChunk);
  double* sums = device_scratch<double>(ctx, chunks);
  double* norm = args.result.defined() ? args.result.as<double>() : device_scratch<double>(ctx, 1);
  const auto make = [&](size_t i) {
    const TensorView& grad = args.grads[i];
    return Gradient{grad.data, grad.numel(), grad.dtype, aligned(grad)};
  };
  double* next = sums;
  in_batches<Gradients>(args.grads, kNormChunk, make, [&](const Gradients& batch) {
    launch("grad_norm: squares", squares_kernel, batch.blocks, kBlock, 0, ctx, batch, next);
    next += batch.blocks;
  });
  launch("grad_norm", norm_kernel, 1, kBlock, 0, ctx, sums, chunks, norm);
  if (args.norm) copy_to_host(ctx, args.norm, norm, sizeof(double));
}

void adamw_step(const AdamwStep& args, Context& ctx) {
  const auto narrow = [](double x) { return static_cast<float>(x); };
  const Rule rule{narrow(args.clip_scale), narrow(args.beta1),       narrow(1.0 - args.beta1),
                  narrow(args.beta2),      narrow(1.0 - args.beta2), narrow(args.eps)};
  const auto make = [&](size_t i) {
    const TensorView &param = args.params[i], &grad = args.grads[i];
    const TensorView &exp_avg = args.exp_avgs[i], &exp_avg_sq = args.exp_avg_sqs[i];
    const double step = static_cast<double>(args.steps[i]);
    const double correction1 = 1.0 - std::pow(args.beta1, step);
    const double correction2 = 1.0 - std::pow(args.beta2, step);
    return Parameter{
        .param = param.data,
        .grad = grad.data,
        .exp_avg = exp_avg.as<float>(),
        .exp_avg_sq = exp_avg_sq.as<float>(),
        .count = param.numel(),
        .decay = narrow(1.0 - args.lrs[i] * args.weight_decays[i]),
        .step_size = narrow(args.lrs[i] / correction1),
        .root_correction = narrow(1.0 / std::sqrt(correction2)),
        .param_dtype = param.dtype,
        .grad_dtype = grad.dtype,
        .packed = aligned(param) && aligned(grad) && aligned(exp_avg) && aligned(exp_avg_sq)};
  };
  in_batches<Parameters>(args.params, kStepChunk, make, [&](const Parameters& batch) {
    launch("adamw_step", step_kernel, batch.blocks, kBlock, 0, ctx, batch, rule);
  });
}

}  // namespace fusedlm::FUSEDLM_DEVICE
