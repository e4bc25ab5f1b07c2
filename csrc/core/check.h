#pragma once
// Argument checks of the public API. Every message names op, argument, expectation and what came.

#include <initializer_list>
#include <string>

#include "fusedlm/errors.h"
#include "fusedlm/tensor.h"

namespace fusedlm::check {

/// The argument is given, on the CPU, has `ndim` dimensions and one of the dtypes.
void tensor(const char* op, const char* argument, const TensorView& view, int ndim,
            std::initializer_list<DType> dtypes);
/// Dimension `dim` has the size `expected`; `like` says where that size comes from.
void dim(const char* op, const char* argument, const TensorView& view, int dim, index_t expected,
         const char* like);
/// The last dimension is contiguous (stride 1, or at most one element).
void last_contiguous(const char* op, const char* argument, const TensorView& view);
/// Dense row-major.
void contiguous(const char* op, const char* argument, const TensorView& view);
[[noreturn]] void fail(const char* op, const std::string& message);

}  // namespace fusedlm::check
