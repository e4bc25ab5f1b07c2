#include "core/read_ahead.h"

#include <algorithm>
#include <bit>
#include <cstdint>

namespace fusedlm {
namespace {

// Half of the trials, also of every second or every fourth one: layers repeat their products (the
// Thue-Morse sequence).
bool is_ahead(int trial) { return std::popcount(static_cast<uint32_t>(trial)) % 2 != 0; }

}  // namespace

ReadAhead::Call ReadAhead::next() {
  if (decided_.load(std::memory_order_acquire)) return {best_, -1};
  const int trial = started_.fetch_add(1, std::memory_order_relaxed);
  if (trial >= kTrials) return {};
  return {is_ahead(trial), trial};
}

void ReadAhead::done(const Call& call, float time) {
  if (call.trial < 0) return;
  const std::lock_guard lock(mutex_);
  times_[static_cast<size_t>(call.trial)] = time;
  if (++finished_ < kTrials) return;
  best_ = median(true) < 0.97f * median(false);
  decided_.store(true, std::memory_order_release);
}

float ReadAhead::median(bool ahead) const {
  std::array<float, kTrials / 2> some;
  size_t count = 0;
  for (int i = 0; i < kTrials; ++i) {
    if (is_ahead(i) == ahead) some[count++] = times_[static_cast<size_t>(i)];
  }
  std::nth_element(some.begin(), some.begin() + kTrials / 4, some.end());
  return some[kTrials / 4];
}

}  // namespace fusedlm
