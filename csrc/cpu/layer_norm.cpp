// Layer norm with the residual add (Ba et al. 2016). A row is read three times from L1: mean (with
// the residual added on the way), centred squares, scale (norm_row.h). Rows are dealt and parameter
// gradients added as norm_blocks.h says.

#include "fusedlm/layer_norm.h"

#include "cpu/norm_blocks.h"
#include "cpu/norm_row.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

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
  const index_t C = args.x.shape[1];
  const bool around = goes_around(args.y) && (!args.sum.defined() || goes_around(args.sum));
  float* rows = ctx.workspace().take<float>(num_threads() * C);
  for_row_blocks(args, [&](auto t, auto w, index_t, int thread, index_t first, index_t end) {
    using T = decltype(t);
    T* kept = reinterpret_cast<T*>(rows + thread * C);
    for (index_t row = first; row < end; ++row)
      forward_row<T, decltype(w)>(args, row, around, kept);
  });
}

void layer_norm_backward(const LayerNormBackward& args, Context& ctx) {
  const index_t C = args.x.shape[1], blocks = row_blocks(args.x);
  const bool around = goes_around(args.dx);
  float* dweights = ctx.workspace().take<float>(blocks * C);
  float* dbiases = ctx.workspace().take<float>(blocks * C);
  for_row_blocks(args, [&](auto t, auto w, index_t block, int, index_t first, index_t end) {
    float *dweight = dweights + block * C, *dbias = dbiases + block * C;
    __builtin_memset(dweight, 0, static_cast<size_t>(C) * sizeof(float));
    __builtin_memset(dbias, 0, static_cast<size_t>(C) * sizeof(float));
    for (index_t row = first; row < end; ++row)
      backward_row<decltype(t), decltype(w)>(args, row, around, dweight, dbias);
  });
  sum_rows(dweights, blocks, C, args.dweight.as<float>());
  sum_rows(dbiases, blocks, C, args.dbias.as<float>());
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
