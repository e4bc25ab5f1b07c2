#pragma once
// Deals numbered tasks to OpenMP's threads. What a task computes never depends on who runs it: work
// is split by shape alone, so results are the same bits for any number of threads.

#include <type_traits>

#include "fusedlm/device.h"

namespace fusedlm {
namespace detail {
void run_tasks(index_t tasks, void (*call)(void* body, index_t task, int thread), void* body);
}

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

FUSEDLM_INLINE index_t ceil_div(index_t a, index_t b) { return (a + b - 1) / b; }
FUSEDLM_INLINE index_t min_of(index_t a, index_t b) { return a < b ? a : b; }
FUSEDLM_INLINE index_t max_of(index_t a, index_t b) { return a > b ? a : b; }

}  // namespace fusedlm
