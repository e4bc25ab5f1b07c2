#pragma once
// Cosines and sines of the rotary positions, made as far as sequences have come.

#include <vector>

#include "engine/decoder_kernels.h"

namespace fusedlm::engine {

class RopeTables {
 public:
  explicit RopeTables(const DecoderConfig& config);
  /// Tables that hold positions [0, length) at least; valid until a longer one is asked for.
  RopeRows rows(index_t length);

 private:
  void grow(index_t length);

  std::vector<double> rates_;  // [D / 2], angle of a step of one position; empty: not rotary
  double magnitude_;
  bool interleaved_;
  index_t context_, length_ = 0;
  std::vector<float> cos_, sin_;
};

}  // namespace fusedlm::engine
