#pragma once
// Threads that stand by through many short loops, as a step of the engine is. OpenMP's own loops wait for
// every thread to arrive; here a thread that the system has not scheduled is not waited for, and the
// others do its tasks. So a loop costs some hundred nanoseconds, and on a busy machine not a time slice.

#include <memory>

#include "core/parallel.h"

namespace fusedlm {
namespace detail {
void run_with_team(void (*call)(void* body), void* body);
}

/// body() on this thread; parallel_for in it is done with threads that stand by until it returns. They spin:
/// for work of milliseconds that never waits. An exception of body's is passed on.
template <class Body>
void with_team(Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  detail::run_with_team([](void* erased) { (*static_cast<Plain*>(erased))(); },
                        const_cast<void*>(static_cast<const void*>(std::addressof(body))));
}

}  // namespace fusedlm
