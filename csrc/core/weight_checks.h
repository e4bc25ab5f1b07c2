#pragma once
// The checks that all functions on weights share.

#include "core/check.h"
#include "fusedlm/weight.h"

namespace fusedlm::check {

/// Rows of `cols` weights can be held in `format`: whole blocks, at least one.
void weight_columns(const char* op, const char* argument, WeightFormat format, index_t cols);
/// Data, sizes and (int8) scales are there.
void weight(const char* op, const char* argument, const Weight& weight);
/// What the kernel of `quantize` found. Thrown here: code for one instruction set must hold no function
/// of the standard library, whose copies the linker would fold into one.
[[noreturn]] void refuse_row(index_t row, WeightFormat format, bool wide);

}  // namespace fusedlm::check
