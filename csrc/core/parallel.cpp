#include "core/parallel.h"

#include <omp.h>

#include <atomic>
#include <exception>
#include <thread>
#include <utility>

#include "core/team.h"

namespace fusedlm::detail {
namespace {

/// A core's wait for another: at first without giving up its turn.
class Wait {
 public:
  void once() {
    if (++count_ % kSpins == 0) return std::this_thread::yield();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

 private:
  static constexpr unsigned kSpins = 2048;  // some 50 microseconds
  unsigned count_ = 0;
};

class Team {
 public:
  explicit Team(int threads) : threads_(threads) {}
  int threads() const { return threads_; }

  /// Runs all tasks; returns when they are done. On the leader's thread.
  void run(index_t tasks, void (*call)(void*, index_t, int), void* body) {
    call_ = call, body_ = body, tasks_ = tasks;
    next_.store(0, std::memory_order_relaxed);
    job_ += kJob;
    state_.store(job_ | kOpen, std::memory_order_release);
    work(0);
    // Nobody joins any more; those who did are waited for.
    uint64_t state = state_.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
    for (Wait wait; state != job_; state = state_.load(std::memory_order_acquire)) wait.once();
  }

  void stand_by(int thread) {
    uint64_t seen = 0;
    for (Wait wait;;) {
      uint64_t state = state_.load(std::memory_order_acquire);
      if (state == kOver) return;
      if (!(state & kOpen) || state / kJob == seen) {
        wait.once();
        continue;
      }
      if (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire)) continue;
      seen = state / kJob;
      work(thread);
      state_.fetch_sub(1, std::memory_order_release);
      wait = {};
    }
  }

  void dismiss() { state_.store(kOver, std::memory_order_release); }

 private:
  // From the lowest bit: threads that joined, whether more may, the number of the job.
  static constexpr uint64_t kOpen = uint64_t{1} << 15, kJob = uint64_t{1} << 16,
                            kOver = ~uint64_t{0};

  // Tasks are taken in order from a counter: a core that is slowed down takes fewer.
  void work(int thread) {
    for (index_t task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) {
      call_(body_, task, thread);
    }
  }

  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<index_t> next_{0};
  alignas(64) void (*call_)(void*, index_t, int) = nullptr;
  void* body_ = nullptr;
  index_t tasks_ = 0;
  uint64_t job_ = 0;
  const int threads_;
};

thread_local Team* own_team = nullptr;  // of the leader, but not within a task

}  // namespace

void run_tasks(index_t tasks, void (*call)(void*, index_t, int), void* body) {
  const int threads = static_cast<int>(min_of(num_threads(), tasks));
  if (threads <= 1) {
    for (index_t task = 0; task < tasks; ++task) call(body, task, 0);
    return;
  }
  if (own_team) {
    Team* team = std::exchange(own_team, nullptr);
    team->run(tasks, call, body);
    own_team = team;
    return;
  }
  std::atomic<index_t> next{0};
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
    for (index_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
      call(body, task, thread);
    }
  }
}

void run_with_team(void (*call)(void*), void* body) {
  const int threads = num_threads();
  if (threads <= 1 || own_team) return call(body);
  Team team(threads);
  std::exception_ptr failure;
#pragma omp parallel num_threads(threads)
  {
    if (omp_get_thread_num() != 0) {
      team.stand_by(omp_get_thread_num());
    } else {
      own_team = &team;
      try {
        call(body);
      } catch (...) {
        failure = std::current_exception();
      }
      own_team = nullptr;
      team.dismiss();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

int team_threads() { return own_team ? own_team->threads() : 0; }

}  // namespace fusedlm::detail
