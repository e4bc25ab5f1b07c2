#pragma once
// fork() copies one thread and the state of all locks. What would wait for the threads that are not
// there is told so.

#include <mutex>

namespace fusedlm {

/// Whether this process was forked from one in which this library was loaded.
bool is_forked();

/// A fork waits for the lock and the child gets it free. Few and for ever: at most 8.
void keep_across_forks(std::mutex& mutex);

}  // namespace fusedlm
