#pragma once
// Deals numbered tasks to OpenMP's threads. What a task computes never depends on who runs it: work
// is split by shape alone, so results are the same bits for any number of threads.

#include <atomic>
#include <type_traits>

#include "fusedlm/device.h"

namespace fusedlm {
namespace detail {
void run_tasks(index_t tasks, void (*call)(void* body, index_t task, int thread), void* body);
/// Of the team that this thread leads (core/team.h), or 0.
int team_threads();
}  // namespace detail

/// body(task, thread) for task in [0, tasks), thread in [0, num_threads()). An exception must not
/// leave it.
template <class Body>
FUSEDLM_INLINE void parallel_for(index_t tasks, Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  detail::run_tasks(
      tasks,
      [](void* erased, index_t task, int thread) { (*static_cast<Plain*>(erased))(task, thread); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

/// body(task, thread) for task in [0, tasks): each thread starts with a stretch of its own and takes its tasks in
/// order, so that it reads memory in long streams; whoever is done helps the others.
template <class Body>
FUSEDLM_INLINE void parallel_for_neighbours(index_t tasks, Body&& body) {
  constexpr index_t kMostStretches = 256;
  struct alignas(64) Stretch {  // NOLINT(cppcoreguidelines-pro-type-member-init): few are used
    std::atomic<index_t> next;
    index_t end;
  };
  const index_t threads = num_threads() < tasks ? num_threads() : tasks;
  const index_t stretches = threads < kMostStretches ? threads : kMostStretches;
  if (stretches <= 1) {
    for (index_t task = 0; task < tasks; ++task) body(task, 0);
    return;
  }
  Stretch all[kMostStretches];
  for (index_t s = 0; s < stretches; ++s) {
    all[s].next.store(s * tasks / stretches, std::memory_order_relaxed);
    all[s].end = (s + 1) * tasks / stretches;
  }
  parallel_for(stretches, [&](index_t own, int thread) {
    for (index_t s = 0; s < stretches; ++s) {
      Stretch& stretch = all[(own + s) % stretches];
      for (index_t task;
           (task = stretch.next.fetch_add(1, std::memory_order_relaxed)) < stretch.end;) {
        body(task, thread);
      }
    }
  });
}

FUSEDLM_INLINE index_t ceil_div(index_t a, index_t b) { return (a + b - 1) / b; }
FUSEDLM_INLINE index_t min_of(index_t a, index_t b) { return a < b ? a : b; }
FUSEDLM_INLINE index_t max_of(index_t a, index_t b) { return a > b ? a : b; }

}  // namespace fusedlm
