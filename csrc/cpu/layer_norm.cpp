// Layer norm with the residual add (Ba et al. 2016). A row is read three times from L1: mean (with
// the residual added on the way), centred squares, scale. Centring first keeps the variance
// accurate where the mean is large. Rows are dealt and parameter gradients added as in
// rms_norm.cpp.

#include "fusedlm/layer_norm.h"

#include "cpu/around.h"
#include "cpu/switch.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

// Enough rows to amortise a task (about 100 us at C = 768), few enough to balance two threads at N
// = 512.
constexpr index_t kRowsPerTask = 64;

template <class T, class W>
void forward_row(const LayerNormForward& a, index_t row, bool around, T* kept) {
  const index_t C = a.x.shape[1];
  const T* x = a.x.row<T>(row);
  Vec total;
  if (a.residual.defined()) {
    const T* residual = a.residual.row<T>(row);
    // Written again with y; until then the sum of this row is in L1.
    T* sum = around ? kept : a.sum.row<T>(row);
    const auto add = [&](index_t c, auto... n) {
      (Vec::load(x + c, n...) + Vec::load(residual + c, n...)).store(sum + c, n...);
      total = total + Vec::load(sum + c, n...);
    };
    for_each_vec(C, add, add);
    x = sum;
  } else {
    const auto add = [&](index_t c, auto... n) { total = total + Vec::load(x + c, n...); };
    for_each_vec(C, add, add);
  }
  // A float32 sum of large values misses their mean by a little; the centred pass finds by how
  // much.
  const float rough = reduce_sum(total) / static_cast<float>(C);
  Vec squares, rest;
  for_each_vec(
      C,
      [&](index_t c) {
        const Vec d = Vec::load(x + c) - Vec(rough);
        squares = fma(d, d, squares);
        rest = rest + d;
      },
      [&](index_t c, index_t n) {
        // Lanes behind the end hold -rough here; they are not part of the sums.
        float d[Vec::size];
        (Vec::load(x + c, n) - Vec(rough)).store(d);
        const Vec inside = Vec::load(d, n);
        squares = fma(inside, inside, squares);
        rest = rest + inside;
      });
  const float off = reduce_sum(rest) / static_cast<float>(C), mean = rough + off;
  float variance = reduce_sum(squares) / static_cast<float>(C) - off * off;
  if (variance < 0.0f) variance = 0.0f;  // by rounding, in a row of equal values
  const float rstd = 1.0f / __builtin_sqrtf(variance + a.eps);
  a.mean.as<float>()[row] = mean;
  a.rstd.as<float>()[row] = rstd;
  const W* weight = a.weight.as<W>();
  const W* bias = a.bias.defined() ? a.bias.as<W>() : nullptr;
  T* y = a.y.row<T>(row);
  const bool copies = around && a.residual.defined();
  T* sum_row = copies ? a.sum.row<T>(row) : nullptr;
  const auto scale = [&](index_t c, auto... n) {
    const Vec xhat = (Vec::load(x + c, n...) - Vec(mean)) * Vec(rstd);
    const Vec shift = bias ? Vec::load(bias + c, n...) : Vec();
    if (copies) store(Vec::load(x + c, n...), sum_row + c, around, n...);
    store(fma(xhat, Vec::load(weight + c, n...), shift), y + c, around, n...);
  };
  for_each_vec(C, scale, scale);
}

template <class T, class W>
void backward_row(const LayerNormBackward& a, index_t row, bool around, float* dweight,
                  float* dbias) {
  const index_t C = a.x.shape[1];
  const T *x = a.x.row<T>(row), *dy = a.dy.row<T>(row);
  const T* dsum = a.dsum.defined() ? a.dsum.row<T>(row) : nullptr;
  const W* weight = a.weight.as<W>();
  T* dx = a.dx.row<T>(row);
  const Vec mean(a.mean.as<float>()[row]), rstd(a.rstd.as<float>()[row]);
  Vec sum_g, sum_gx;
  const auto gather = [&](index_t c, auto... n) {
    const Vec xhat = (Vec::load(x + c, n...) - mean) * rstd, d = Vec::load(dy + c, n...);
    const Vec g = d * Vec::load(weight + c, n...);  // 0 behind the end
    sum_g = sum_g + g;
    sum_gx = fma(g, xhat, sum_gx);
    fma(d, xhat, Vec::load(dweight + c, n...)).store(dweight + c, n...);
    (d + Vec::load(dbias + c, n...)).store(dbias + c, n...);
  };
  for_each_vec(C, gather, gather);
  const Vec mean_g(reduce_sum(sum_g) / static_cast<float>(C));
  const Vec mean_gx(reduce_sum(sum_gx) / static_cast<float>(C));
  const auto write = [&](index_t c, auto... n) {
    const Vec xhat = (Vec::load(x + c, n...) - mean) * rstd;
    const Vec g = Vec::load(dy + c, n...) * Vec::load(weight + c, n...);
    Vec d = (g - mean_g - xhat * mean_gx) * rstd;
    if (dsum) d = d + Vec::load(dsum + c, n...);
    store(d, dx + c, around, n...);
  };
  for_each_vec(C, write, write);
}

}  // namespace

void layer_norm_forward(const LayerNormForward& args, Context& ctx) {
  const index_t N = args.x.shape[0], C = args.x.shape[1];
  const bool around = goes_around(args.y) && (!args.sum.defined() || goes_around(args.sum));
  float* rows = ctx.workspace().take<float>(num_threads() * C);
  switch_float(args.x.dtype, [&](auto t) {
    switch_float(args.weight.dtype, [&](auto w) {
      using T = decltype(t);
      parallel_for(ceil_div(N, kRowsPerTask), [&](index_t task, int thread) {
        T* kept = reinterpret_cast<T*>(rows + thread * C);
        const index_t end = min_of(N, (task + 1) * kRowsPerTask);
        for (index_t row = task * kRowsPerTask; row < end; ++row) {
          forward_row<T, decltype(w)>(args, row, around, kept);
        }
        finish_stores();
      });
    });
  });
}

void layer_norm_backward(const LayerNormBackward& args, Context& ctx) {
  const index_t N = args.x.shape[0], C = args.x.shape[1], tasks = ceil_div(N, kRowsPerTask);
  const bool around = goes_around(args.dx);
  float* dweights = ctx.workspace().take<float>(tasks * C);
  float* dbiases = ctx.workspace().take<float>(tasks * C);
  switch_float(args.x.dtype, [&](auto t) {
    switch_float(args.weight.dtype, [&](auto w) {
      parallel_for(tasks, [&](index_t task, int) {
        float *dweight = dweights + task * C, *dbias = dbiases + task * C;
        __builtin_memset(dweight, 0, static_cast<size_t>(C) * sizeof(float));
        __builtin_memset(dbias, 0, static_cast<size_t>(C) * sizeof(float));
        const index_t end = min_of(N, (task + 1) * kRowsPerTask);
        for (index_t row = task * kRowsPerTask; row < end; ++row) {
          backward_row<decltype(t), decltype(w)>(args, row, around, dweight, dbias);
        }
        finish_stores();
      });
    });
  });
  sum_rows(dweights, tasks, C, args.dweight.as<float>());
  sum_rows(dbiases, tasks, C, args.dbias.as<float>());
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
