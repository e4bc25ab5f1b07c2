#pragma once
// How the rows of layer norm and RMSNorm are dealt: in fixed blocks, so that the sums of a block, added in
// block order, have the same bits for any number of threads.

#include "cpu/around.h"
#include "cpu/switch.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

// Enough rows to amortise a task (about 100 us at C = 768), few enough to balance two threads at N
// = 512.
constexpr index_t kRowsPerBlock = 64;

inline index_t row_blocks(const TensorView& x) { return ceil_div(x.shape[0], kRowsPerBlock); }

/// fn(T{}, W{}, block, thread, first, end) for each block of rows [first, end): T is the type of x, W that of
/// weight.
template <class Args, class Fn>
void for_row_blocks(const Args& args, Fn fn) {
  switch_float(args.x.dtype, [&](auto t) {
    switch_float(args.weight.dtype, [&](auto w) {
      parallel_for(row_blocks(args.x), [&](index_t block, int thread) {
        const index_t first = block * kRowsPerBlock;
        fn(t, w, block, thread, first, min_of(args.x.shape[0], first + kRowsPerBlock));
        finish_stores();
      });
    });
  });
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
