#pragma once
// Prompt look-up decoding (Saxena 2023): what followed the last words when they were said before is likely
// to follow again.

#include <cstdint>
#include <span>

#include "fusedlm/tensor.h"

namespace fusedlm::engine {

/// At most `most` tokens that followed the latest earlier occurrence of the last few tokens of `text`;
/// a part of `text`, empty where they are new.
std::span<const int32_t> guess_next(std::span<const int32_t> text, index_t most);

}  // namespace fusedlm::engine
