#pragma once
// A chain of products over the same rows, run block of rows by block of rows: one thread takes a
// block through all of them and finds in L2 what it has just written. The weights are packed whole
// beforehand. Where they are too large for that, each product runs over all rows, on all threads.

#include <array>
#include <initializer_list>

#include "cpu/gemm_block.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

/// The B of a product, packed whole; without data where it is not.
struct PackedB {
  Panels panels;
  index_t K = 0;
};

class RowChain {
 public:
  /// N rows; `products` are K and N of each product, `row_bytes` what a row of a block keeps in L2
  /// besides its packed form.
  RowChain(index_t N, std::initializer_list<std::array<index_t, 2>> products, index_t row_bytes,
           bool low_precision, Context& ctx);

  bool by_blocks() const { return by_blocks_; }
  /// Rows of the largest block.
  index_t block_rows() const { return block_rows_; }
  /// B [K, N] for `multiply`, on all threads.
  PackedB pack(const Matrix& B, index_t K, index_t N);
  /// body(first, count, thread) for every block, in parallel; once for all rows where not by blocks.
  /// The blocks depend on the shapes alone.
  template <class Body>
  void for_each_block(Body&& body) {
    if (!by_blocks_) return body(index_t{0}, N_, 0);
    parallel_for(whole_ + small_, [&](index_t task, int thread) {
      const index_t first =
          task < whole_ ? task * block_rows_ : whole_ * block_rows_ + (task - whole_) * small_rows_;
      body(first, min_of(N_ - first, task < whole_ ? block_rows_ : small_rows_), thread);
    });
  }
  /// g on the rows of a block, inside for_each_block; `packed`: A is that of the call before.
  void multiply(const Gemm& g, const PackedB& b, int thread, bool packed = false);

 private:
  Context& ctx_;
  index_t N_;
  bool low_precision_, by_blocks_;
  index_t block_rows_, small_rows_, whole_, small_;
  index_t lanes_ = 0;  // of a thread's packed A
  uint32_t* packed_ = nullptr;
};

}  // namespace fusedlm::cpu::FUSEDLM_ISA
