#pragma once
// Whether asking for memory ahead of reading it is worth it on this machine. Cores differ: one whose own
// prefetching runs far ahead reads half as fast if it is asked (Zen 4), another gains. So it is
// measured on the job: a few calls go one way, a few the other. What is computed is the same.

#include <array>
#include <atomic>
#include <mutex>

namespace fusedlm {

/// Used by kernels of every instruction set, hence compiled apart from them.
class ReadAhead {
 public:
  static constexpr int kTrials = 256;

  struct Call {
    bool ahead = false;
    int trial = -1;  ///< its number, or none: what is best is known
  };
  /// How the next call goes. A trial's time is to be told by `done`.
  Call next();
  /// Time for a byte, in any unit. Asking ahead is chosen where its median is lower by more than 3 %.
  void done(const Call& call, float time);

 private:
  float median(bool ahead) const;

  std::atomic<bool> decided_{false};
  bool best_ = false;
  std::atomic<int> started_{0};
  std::mutex mutex_;
  int finished_ = 0;
  std::array<float, kTrials> times_{};
};

}  // namespace fusedlm
