#include "core/parallel.h"

#include <omp.h>

#include <atomic>

namespace fusedlm::detail {

void run_tasks(index_t tasks, void (*call)(void*, index_t, int), void* body) {
  const int threads = static_cast<int>(min_of(num_threads(), tasks));
  if (threads <= 1) {
    for (index_t task = 0; task < tasks; ++task) call(body, task, 0);
    return;
  }
  // Tasks are taken in order from a counter: a core that is slowed down takes fewer.
  std::atomic<index_t> next{0};
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
    for (index_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
      call(body, task, thread);
    }
  }
}

}  // namespace fusedlm::detail
