// Group norm (Wu & He 2018). A group of a sample is one row of D channels of S elements, whose moments
// are those of layer norm (norm_row.h). Where S is 1 each element has a parameter of its own and the rest
// is layer norm too; else a channel is a run of S elements that share one, and its part of every sum is
// known once the run has been read. A task is some samples of some groups: it adds its gradients of
// the parameters in the order of the samples, and those of the tasks are added in theirs.

#include "fusedlm/group_norm.h"

#include "cpu/norm_row.h"
#include "cpu/switch.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

// As many as 64 rows of 768: see layer_norm.cpp.
constexpr index_t kElementsPerTask = 64 * 768;

/// C channels in groups of D, S elements each, and how they are dealt.
struct Shape {
  index_t B, C, S, groups, D, row;
  index_t groups_each, samples_each, group_tasks, sample_tasks;

  FUSEDLM_VEC Shape(const TensorView& x, index_t groups)
      : B(x.shape[0]), C(x.shape[1]), S(x.shape[2]), groups(groups), D(C / groups), row(D * S) {
    const index_t size = max_of(row, 1);
    groups_each = min_of(groups, max_of(1, kElementsPerTask / size));
    samples_each = max_of(1, kElementsPerTask / (groups_each * size));
    group_tasks = ceil_div(groups, groups_each);
    sample_tasks = ceil_div(B, samples_each);
  }

  /// fn(block, sample, group) for each row; `block` numbers the tasks' stretches of samples.
  template <class Fn>
  FUSEDLM_VEC void for_each_row(Fn&& fn) const {
    parallel_for(sample_tasks * group_tasks, [&](index_t task, int) {
      const index_t block = task / group_tasks, first = task % group_tasks * groups_each;
      const index_t last = min_of(groups, first + groups_each);
      const index_t end = min_of(B, (block + 1) * samples_each);
      for (index_t b = block * samples_each; b < end; ++b) {
        for (index_t g = first; g < last; ++g) fn(block, b, g);
      }
      finish_stores();
    });
  }

  /// Whether runs of elements written to `out` go around the caches.
  FUSEDLM_VEC bool around(TensorView out) const {
    out.strides[0] = S == 1 ? D : S;
    return goes_around(out);
  }
};

template <class W>
FUSEDLM_VEC const W* from(const TensorView& vector, index_t channel) {
  return vector.defined() ? vector.as<W>() + channel : nullptr;
}

template <class T, class W>
void forward_row(const GroupNormForward& a, const Shape& s, index_t b, index_t g, bool around) {
  const index_t start = (b * s.groups + g) * s.row;
  const T* x = a.x.as<T>() + start;
  T* y = a.y.as<T>() + start;
  const float sum = sum_of(s.row, [&](index_t c, auto... n) { return Vec::load(x + c, n...); });
  const Moments m = moments_of(x, s.row, sum, a.eps);
  a.mean.as<float>()[b * s.groups + g] = m.mean;
  a.rstd.as<float>()[b * s.groups + g] = m.rstd;
  const W *weight = from<W>(a.weight, g * s.D), *bias = from<W>(a.bias, g * s.D);
  if (s.S == 1) {
    scale_row<T, W>(x, s.D, m, weight, bias, y, nullptr, around);
    return;
  }
  for (index_t d = 0; d < s.D; ++d) {
    const Vec w(weight ? to_float(weight[d]) : 1.0f), shift(bias ? to_float(bias[d]) : 0.0f);
    const auto scale = [&](index_t i, auto... n) {
      const Vec xhat = (Vec::load(x + i, n...) - Vec(m.mean)) * Vec(m.rstd);
      store(fma(xhat, w, shift), y + i, around, n...);
    };
    for_each_vec(s.S, scale, scale);
    x += s.S, y += s.S;
  }
}

template <class T, class W>
void backward_row(const GroupNormBackward& a, const Shape& s, index_t b, index_t g, bool around,
                  float* dweight, float* dbias) {
  const index_t start = (b * s.groups + g) * s.row, S = s.S;
  const T *x = a.x.as<T>() + start, *dy = a.dy.as<T>() + start;
  T* dx = a.dx.as<T>() + start;
  const Moments m{a.mean.as<float>()[b * s.groups + g], a.rstd.as<float>()[b * s.groups + g]};
  const W* weight = from<W>(a.weight, g * s.D);
  if (S == 1) {
    backward_of_row<T, W>(dy, x, s.D, m, weight, nullptr, dx, around, dweight, dbias);
    return;
  }
  const Vec mean(m.mean), rstd(m.rstd);
  float sum_g = 0.0f, sum_gx = 0.0f;
  for (index_t d = 0; d < s.D; ++d) {
    const T *x_run = x + d * S, *dy_run = dy + d * S;
    Vec total, dot;
    PartialSums sums, dots;
    for_each_piece(
        S,
        [&](index_t i, int part, auto... n) {
          // Behind the end mean * rstd can be infinite, and 0 times that is not 0.
          const Vec xhat = inside((Vec::load(x_run + i, n...) - mean) * rstd, n...);
          const Vec arrived = Vec::load(dy_run + i, n...);
          sums.part[part] = sums.part[part] + arrived;
          dots.part[part] = fma(arrived, xhat, dots.part[part]);
        },
        [&] { total = total + sums.take(), dot = dot + dots.take(); });
    const float of_bias = reduce_sum(total), of_weight = reduce_sum(dot);
    const float w = weight ? to_float(weight[d]) : 1.0f;
    dbias[d] += of_bias;
    dweight[d] += of_weight;
    sum_g += w * of_bias;
    sum_gx += w * of_weight;
  }
  const Vec mean_g(sum_g / static_cast<float>(s.row)), mean_gx(sum_gx / static_cast<float>(s.row));
  for (index_t d = 0; d < s.D; ++d) {
    const T *x_run = x + d * S, *dy_run = dy + d * S;
    T* dx_run = dx + d * S;
    const Vec w(weight ? to_float(weight[d]) : 1.0f);
    const auto write = [&](index_t i, auto... n) {
      const Vec xhat = (Vec::load(x_run + i, n...) - mean) * rstd;
      const Vec grad = Vec::load(dy_run + i, n...) * w;
      store((grad - mean_g - xhat * mean_gx) * rstd, dx_run + i, around, n...);
    };
    for_each_vec(S, write, write);
  }
}

}  // namespace

void group_norm_forward(const GroupNormForward& args, Context&) {
  const Shape shape(args.x, args.groups);
  const bool around = shape.around(args.y);
  const DType beside = args.weight.defined() ? args.weight.dtype : args.bias.dtype;
  switch_float(args.x.dtype, [&](auto t) {
    switch_float(beside, [&](auto w) {
      shape.for_each_row([&](index_t, index_t b, index_t g) {
        forward_row<decltype(t), decltype(w)>(args, shape, b, g, around);
      });
    });
  });
}

void group_norm_backward(const GroupNormBackward& args, Context& ctx) {
  const Shape shape(args.x, args.groups);
  const bool around = shape.around(args.dx);
  const index_t C = shape.C, count = shape.sample_tasks * C;
  float* dweights = ctx.workspace().take<float>(count);
  float* dbiases = ctx.workspace().take<float>(count);
  // Tasks of the same samples share a row of these; it is small beside what they read.
  __builtin_memset(dweights, 0, static_cast<size_t>(count) * sizeof(float));
  __builtin_memset(dbiases, 0, static_cast<size_t>(count) * sizeof(float));
  switch_float(args.x.dtype, [&](auto t) {
    switch_float(args.weight.dtype, [&](auto w) {
      shape.for_each_row([&](index_t block, index_t b, index_t g) {
        const index_t at = block * C + g * shape.D;
        backward_row<decltype(t), decltype(w)>(args, shape, b, g, around, dweights + at,
                                               dbiases + at);
      });
    });
  });
  if (args.dweight.defined()) {
    sum_rows(dweights, shape.sample_tasks, C, args.dweight.as<float>());
  }
  if (args.dbias.defined()) sum_rows(dbiases, shape.sample_tasks, C, args.dbias.as<float>());
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
