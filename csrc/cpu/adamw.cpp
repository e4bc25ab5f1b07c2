// Global gradient norm and AdamW (Loshchilov & Hutter 2019) over many tensors. Both cut every
// tensor into blocks of kBlock elements and deal the blocks of all tensors as one list of tasks.
// The norm adds each block's squares on its own and then the blocks in order; the step reads and
// writes everything once, with the clip factor folded in, which is all that memory bandwidth
// allows.

#include "fusedlm/adamw.h"

#include "cpu/switch.h"
#include "cpu/vec.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

// 64 KiB of float32: a few microseconds, long beside the start of a task, short beside a tensor.
constexpr index_t kBlock = 16384;
// Float32 sums hold at most so many elements before they are widened to double.
constexpr index_t kPiece = 1024;

struct Block {
  index_t tensor, first, count;
};

// All blocks of all tensors, in order.
struct Blocks {
  Block* list;
  index_t count = 0;
};

Blocks cut(const std::vector<TensorView>& tensors, Context& ctx) {
  Blocks blocks{nullptr};
  for (const TensorView& t : tensors) blocks.count += ceil_div(t.numel(), kBlock);
  blocks.list = ctx.workspace().take<Block>(blocks.count);
  Block* next = blocks.list;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const index_t numel = tensors[i].numel();
    for (index_t first = 0; first < numel; first += kBlock) {
      *next++ = {static_cast<index_t>(i), first, min_of(kBlock, numel - first)};
    }
  }
  return blocks;
}

template <class T>
bool all_zero(const T* x, index_t count) {
  Vec largest;
  const auto body = [&](index_t c, auto... n) {
    largest = max(largest, abs(Vec::load(x + c, n...)));
  };
  for_each_vec(count, body, body);
  return reduce_max(largest) == 0.0f;
}

template <class T>
double piece_squares(const T* x, index_t count) {
  Vec sums[4];
  index_t c = 0;
  for (; c + 4 * Vec::size <= count; c += 4 * Vec::size) {
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) {
      const Vec v = Vec::load(x + c + u * Vec::size);
      sums[u] = fma(v, v, sums[u]);
    }
  }
  for (; c + Vec::size <= count; c += Vec::size)
    sums[0] = fma(Vec::load(x + c), Vec::load(x + c), sums[0]);
  if (c < count) {
    const Vec v = Vec::load(x + c, count - c);
    sums[1] = fma(v, v, sums[1]);
  }
  const float sum = reduce_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  if (sum > 1e-30f && sum < 1e38f) return sum;
  // Squares beyond float32's range, at either end, are taken again in double; but zeros are common.
  if (sum == 0.0f && all_zero(x, count)) return 0.0;
  double wide = 0.0;
  for (index_t i = 0; i < count; ++i) {
    const double v = to_float(x[i]);
    wide += v * v;
  }
  return wide;
}

// What a block needs beyond its elements.
struct Rule {
  Vec clip, beta1, beta1_rest, beta2, beta2_rest, decay, step_size, root_correction, eps;
};

template <class P, class G>
void update(P* param, const G* grad, float* exp_avg, float* exp_avg_sq, index_t count,
            const Rule& rule) {
  const auto body = [&](index_t c, auto... n) {
    const Vec g = Vec::load(grad + c, n...) * rule.clip;
    // Not m + (1 - beta1) (g - m): with a small beta1, a small g would be lost in m.
    const Vec m = fma(g, rule.beta1_rest, Vec::load(exp_avg + c, n...) * rule.beta1);
    const Vec v = fma(g * g, rule.beta2_rest, Vec::load(exp_avg_sq + c, n...) * rule.beta2);
    const Vec p = Vec::load(param + c, n...) * rule.decay;
    m.store(exp_avg + c, n...);
    v.store(exp_avg_sq + c, n...);
    (p - rule.step_size * (m / fma(sqrt(v), rule.root_correction, rule.eps)))
        .store(param + c, n...);
  };
  for_each_vec(count, body, body);
}

Rule rule_for(const AdamwStep& a, index_t i) {
  const double step = static_cast<double>(a.steps[i]);
  const double correction1 = 1.0 - __builtin_pow(a.beta1, step),
               correction2 = 1.0 - __builtin_pow(a.beta2, step);
  const auto wide = [](double x) { return Vec(static_cast<float>(x)); };
  return {wide(a.clip_scale),
          wide(a.beta1),
          wide(1.0 - a.beta1),
          wide(a.beta2),
          wide(1.0 - a.beta2),
          wide(1.0 - a.lrs[i] * a.weight_decays[i]),
          wide(a.lrs[i] / correction1),
          wide(1.0 / __builtin_sqrt(correction2)),
          wide(a.eps)};
}

}  // namespace

void grad_norm(const GradNorm& a, Context& ctx) {
  const Blocks blocks = cut(a.grads, ctx);
  double* sums = ctx.workspace().take<double>(blocks.count);
  parallel_for(blocks.count, [&](index_t task, int) {
    const Block block = blocks.list[task];
    const TensorView& grad = a.grads[block.tensor];
    double sum = 0.0;
    switch_float(grad.dtype, [&](auto type) {
      const auto* x = grad.as<decltype(type)>() + block.first;
      for (index_t c = 0; c < block.count; c += kPiece) {
        sum += piece_squares(x + c, min_of(kPiece, block.count - c));
      }
    });
    sums[task] = sum;
  });
  double total = 0.0;
  for (index_t i = 0; i < blocks.count; ++i) total += sums[i];
  const double norm = __builtin_sqrt(total);
  if (a.norm) *a.norm = norm;
  if (a.result.defined()) *a.result.as<double>() = norm;
}

void adamw_step(const AdamwStep& a, Context& ctx) {
  const Blocks blocks = cut(a.params, ctx);
  parallel_for(blocks.count, [&](index_t task, int) {
    const Block block = blocks.list[task];
    const index_t i = block.tensor, first = block.first;
    const Rule rule = rule_for(a, i);
    switch_float(a.params[i].dtype, [&](auto p) {
      switch_float(a.grads[i].dtype, [&](auto g) {
        update(a.params[i].as<decltype(p)>() + first, a.grads[i].as<decltype(g)>() + first,
               a.exp_avgs[i].as<float>() + first, a.exp_avg_sqs[i].as<float>() + first, block.count,
               rule);
      });
    });
  });
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
