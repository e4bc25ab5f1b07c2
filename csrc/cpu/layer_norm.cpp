// Layer norm with the residual add (Ba et al. 2016). A row is read three times from L1: mean (with
// the residual added on the way), centred squares, scale (norm_row.h). Rows are dealt and parameter
// gradients added as in rms_norm.cpp.

#include "fusedlm/layer_norm.h"

#include "cpu/norm_row.h"
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
  float total;
  if (a.residual.defined()) {
    const T* residual = a.residual.row<T>(row);
    // Written again with y; until then the sum of this row is in L1.
    T* sum = around ? kept : a.sum.row<T>(row);
    total = sum_of(C, [&](index_t c, auto... n) {
      (Vec::load(x + c, n...) + Vec::load(residual + c, n...)).store(sum + c, n...);
      return Vec::load(sum + c, n...);
    });
    x = sum;
  } else {
    total = sum_of(C, [&](index_t c, auto... n) { return Vec::load(x + c, n...); });
  }
  const Moments m = moments_of(x, C, total, a.eps);
  a.mean.as<float>()[row] = m.mean;
  a.rstd.as<float>()[row] = m.rstd;
  T* copy = around && a.residual.defined() ? a.sum.row<T>(row) : nullptr;
  const W* bias = a.bias.defined() ? a.bias.as<W>() : nullptr;
  scale_row(x, C, m, a.weight.as<W>(), bias, a.y.row<T>(row), copy, around);
}

template <class T, class W>
void backward_row(const LayerNormBackward& a, index_t row, bool around, float* dweight,
                  float* dbias) {
  const Moments m{a.mean.as<float>()[row], a.rstd.as<float>()[row]};
  const T* dsum = a.dsum.defined() ? a.dsum.row<T>(row) : nullptr;
  backward_of_row(a.dy.row<T>(row), a.x.row<T>(row), a.x.shape[1], m, a.weight.as<W>(), dsum,
                  a.dx.row<T>(row), around, dweight, dbias);
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
