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

/// body(first, last, thread) for stretches [first, last) of tasks that are [0, tasks) together. Each thread starts
/// with a part of its own and takes half of what is left of it at a time: it reads memory in long streams, and
/// yet all end together, as whoever is done helps the others.
template <class Body>
FUSEDLM_INLINE void parallel_for_stretches(index_t tasks, Body&& body) {
  constexpr index_t kMostParts = 256;
  struct alignas(64) Part {  // NOLINT(cppcoreguidelines-pro-type-member-init): few are used
    std::atomic<index_t> next;
    index_t end;
  };
  const index_t threads = num_threads() < tasks ? num_threads() : tasks;
  const index_t parts = threads < kMostParts ? threads : kMostParts;
  if (parts <= 1) {
    if (tasks > 0) body(index_t{0}, tasks, 0);
    return;
  }
  Part all[kMostParts];
  for (index_t p = 0; p < parts; ++p) {
    all[p].next.store(p * tasks / parts, std::memory_order_relaxed);
    all[p].end = (p + 1) * tasks / parts;
  }
  parallel_for(parts, [&](index_t own, int thread) {
    for (index_t p = 0; p < parts; ++p) {
      Part& part = all[(own + p) % parts];
      for (index_t first = part.next.load(std::memory_order_relaxed); first < part.end;) {
        const index_t last = first + (part.end - first + 1) / 2;
        if (part.next.compare_exchange_weak(first, last, std::memory_order_relaxed)) {
          body(first, last, thread);
          first = part.next.load(std::memory_order_relaxed);
        }
      }
    }
  });
}

FUSEDLM_INLINE index_t ceil_div(index_t a, index_t b) { return (a + b - 1) / b; }
FUSEDLM_INLINE index_t min_of(index_t a, index_t b) { return a < b ? a : b; }
FUSEDLM_INLINE index_t max_of(index_t a, index_t b) { return a > b ? a : b; }

}  // namespace fusedlm
