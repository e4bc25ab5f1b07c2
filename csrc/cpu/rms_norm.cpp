// RMSNorm with the residual add (Zhang & Sennrich 2019). One row at a time, two passes over a row
// that stays in L1: sum of squares (with the residual added and written on the way), then scale.
// The backward reads a row twice too. Rows are dealt in fixed blocks; each block adds its dweight
// in row order into a row of its own, and those are added in block order: the same bits for any
// number of threads.

#include "fusedlm/rms_norm.h"

#include "cpu/norm_blocks.h"
#include "cpu/partial_sums.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

template <class T, class W>
void forward_row(const RmsNormForward& a, index_t row, bool around, T* kept) {
  const index_t C = a.x.shape[1];
  const T* x = a.x.row<T>(row);
  PartialSums squares;
  if (a.residual.defined()) {
    const T* residual = a.residual.row<T>(row);
    // Written again with y; until then the sum of this row is in L1.
    T* sum = around ? kept : a.sum.row<T>(row);
    for_each_part(C, [&](index_t c, int i, auto... n) {
      (Vec::load(x + c, n...) + Vec::load(residual + c, n...)).store(sum + c, n...);
      const Vec s = Vec::load(sum + c, n...);
      squares.part[i] = fma(s, s, squares.part[i]);
    });
    x = sum;
  } else {
    for_each_part(C, [&](index_t c, int i, auto... n) {
      const Vec s = Vec::load(x + c, n...);
      squares.part[i] = fma(s, s, squares.part[i]);
    });
  }
  const float rstd =
      1.0f / __builtin_sqrtf(reduce_sum(squares.take()) / static_cast<float>(C) + a.eps);
  a.rstd.as<float>()[row] = rstd;
  const W* weight = a.weight.as<W>();
  T* y = a.y.row<T>(row);
  const bool copies = around && a.residual.defined();
  T* sum_row = copies ? a.sum.row<T>(row) : nullptr;
  const auto scale = [&](index_t c, auto... n) {
    const Vec s = Vec::load(x + c, n...);
    if (copies) store(s, sum_row + c, around, n...);
    store(s * Vec(rstd) * Vec::load(weight + c, n...), y + c, around, n...);
  };
  for_each_vec(C, scale, scale);
}

template <class T, class W>
void backward_row(const RmsNormBackward& a, index_t row, bool around, float* dweight) {
  const index_t C = a.x.shape[1];
  const T *x = a.x.row<T>(row), *dy = a.dy.row<T>(row);
  const T* dsum = a.dsum.defined() ? a.dsum.row<T>(row) : nullptr;
  const W* weight = a.weight.as<W>();
  T* dx = a.dx.row<T>(row);
  const Vec rstd(a.rstd.as<float>()[row]);
  PartialSums dots;
  for_each_part(C, [&](index_t c, int i, auto... n) {
    const Vec xhat = Vec::load(x + c, n...) * rstd, d = Vec::load(dy + c, n...);
    dots.part[i] = fma(d * Vec::load(weight + c, n...), xhat, dots.part[i]);
    fma(d, xhat, Vec::load(dweight + c, n...)).store(dweight + c, n...);
  });
  const Vec mean(reduce_sum(dots.take()) / static_cast<float>(C));
  const auto write = [&](index_t c, auto... n) {
    const Vec xhat = Vec::load(x + c, n...) * rstd;
    const Vec g = Vec::load(dy + c, n...) * Vec::load(weight + c, n...);
    Vec d = (g - xhat * mean) * rstd;
    if (dsum) d = d + Vec::load(dsum + c, n...);
    store(d, dx + c, around, n...);
  };
  for_each_vec(C, write, write);
}

}  // namespace

void rms_norm_forward(const RmsNormForward& args, Context& ctx) {
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

void rms_norm_backward(const RmsNormBackward& args, Context& ctx) {
  const index_t C = args.x.shape[1], blocks = row_blocks(args.x);
  const bool around = goes_around(args.dx);
  float* partial = ctx.workspace().take<float>(blocks * C);
  for_row_blocks(args, [&](auto t, auto w, index_t block, int, index_t first, index_t end) {
    float* dweight = partial + block * C;
    __builtin_memset(dweight, 0, static_cast<size_t>(C) * sizeof(float));
    for (index_t row = first; row < end; ++row)
      backward_row<decltype(t), decltype(w)>(args, row, around, dweight);
  });
  sum_rows(partial, blocks, C, args.dweight.as<float>());
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
