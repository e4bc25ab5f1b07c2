#include "engine/rope_tables.h"

#include <algorithm>
#include <cmath>

namespace fusedlm::engine {
RopeTables::RopeTables(const DecoderConfig& config)
    : magnitude_(config.rope_scaling.attention_factor),
      interleaved_(config.rope_interleaved),
      context_(config.context) {
  if (config.positions == Positions::rope) rates_ = rope_rates(config);
}

RopeRows RopeTables::rows(index_t length) {
  if (rates_.empty()) return {};
  if (length > length_) grow(length);
  return {cos_.data(), sin_.data(), interleaved_};
}

void RopeTables::grow(index_t length) {
  length = std::max(length, std::min(context_, std::max<index_t>(512, 2 * length_)));
  const index_t half = static_cast<index_t>(rates_.size()), width = interleaved_ ? 2 * half : half;
  cos_.resize(static_cast<size_t>(length * width));
  sin_.resize(static_cast<size_t>(length * width));
  for (index_t at = length_; at < length; ++at) {
    float *cos = cos_.data() + at * width, *sin = sin_.data() + at * width;
    for (index_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(at) * rates_[static_cast<size_t>(i)];
      const auto c = static_cast<float>(magnitude_ * std::cos(angle)),
                 s = static_cast<float>(magnitude_ * std::sin(angle));
      if (interleaved_) {
        cos[2 * i] = cos[2 * i + 1] = c;
        sin[2 * i] = -s, sin[2 * i + 1] = s;
      } else {
        cos[i] = c, sin[i] = s;
      }
    }
  }
  length_ = length;
}

}  // namespace fusedlm::engine
