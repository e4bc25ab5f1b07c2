#pragma once
// Whether asking for memory ahead of reading it is worth it on this machine. Cores differ: one whose own
// prefetching runs far ahead reads half as fast if it is asked (Zen 4), another gains. So it is
// measured on the job: a few calls go one way, a few the other. What is computed is the same.

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <mutex>

namespace fusedlm {

class ReadAhead {
 public:
  static constexpr int kTrials = 256;

  struct Call {
    bool ahead = false;
    int trial = -1;  ///< its number, or none: what is best is known
  };
  /// How the next call goes. A trial's time is to be told by `done`.
  Call next() {
    if (decided_.load(std::memory_order_acquire)) return {best_, -1};
    const int trial = started_.fetch_add(1, std::memory_order_relaxed);
    if (trial >= kTrials) return {};
    return {is_ahead(trial), trial};
  }

  /// Time for a byte, in any unit. Asking ahead is chosen where its median is lower by more than 3 %.
  void done(const Call& call, float time) {
    if (call.trial < 0) return;
    const std::lock_guard lock(mutex_);
    times_[static_cast<size_t>(call.trial)] = time;
    if (++finished_ < kTrials) return;
    best_ = median(true) < 0.97f * median(false);
    decided_.store(true, std::memory_order_release);
  }

 private:
  // Half of the trials, also of every second or every fourth one: layers repeat their products (the
  // Thue-Morse sequence).
  static bool is_ahead(int trial) { return std::popcount(static_cast<uint32_t>(trial)) % 2 != 0; }

  float median(bool ahead) const {
    std::array<float, kTrials / 2> some;
    size_t count = 0;
    for (int i = 0; i < kTrials; ++i) {
      if (is_ahead(i) == ahead) some[count++] = times_[static_cast<size_t>(i)];
    }
    std::nth_element(some.begin(), some.begin() + kTrials / 4, some.end());
    return some[kTrials / 4];
  }

  std::atomic<bool> decided_{false};
  bool best_ = false;
  std::atomic<int> started_{0};
  std::mutex mutex_;
  int finished_ = 0;
  std::array<float, kTrials> times_{};
};

}  // namespace fusedlm
