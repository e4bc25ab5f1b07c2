#pragma once
// The checks that ops on rows share.

#include <string>

#include "core/check.h"

namespace fusedlm::check {

/// [N, columns] with contiguous rows and N and dtype as in x.
inline void rows_of(const char* op, const char* argument, const TensorView& view,
                    const TensorView& x, index_t columns, const char* like) {
  tensor(op, argument, view, 2, {x.dtype});
  dim(op, argument, view, 0, x.shape[0], "x");
  dim(op, argument, view, 1, columns, like);
  last_contiguous(op, argument, view);
}

/// A dense [rows, columns] parameter.
inline void weight_of(const char* op, const char* argument, const TensorView& view, index_t rows,
                      const char* rows_like, index_t columns, const char* columns_like,
                      const DTypes& dtypes) {
  tensor(op, argument, view, 2, dtypes);
  if (rows >= 0) dim(op, argument, view, 0, rows, rows_like);
  if (columns >= 0) dim(op, argument, view, 1, columns, columns_like);
  contiguous(op, argument, view);
}

inline void vector_of(const char* op, const char* argument, const TensorView& view, index_t size,
                      const char* like, const DTypes& dtypes) {
  tensor(op, argument, view, 1, dtypes);
  dim(op, argument, view, 0, size, like);
  contiguous(op, argument, view);
}

/// An argument that goes with another one, which is not there.
inline void absent(const char* op, const char* argument, const TensorView& view,
                   const char* without) {
  if (view.defined()) fail(op, std::string(argument) + " is given without " + without);
}

inline void rows_input(const char* op, const char* argument, const TensorView& x) {
  tensor(op, argument, x, 2, floats(x));
  last_contiguous(op, argument, x);
}

}  // namespace fusedlm::check
