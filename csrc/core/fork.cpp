#include "core/fork.h"

#include <array>
#include <atomic>
#include <cstddef>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace fusedlm {
namespace {

std::atomic<bool> forked{false};
std::array<std::mutex*, 8> kept{};
std::atomic<size_t> kept_count{0};

void lock_all() {
  for (size_t i = 0; i < kept_count; ++i) kept[i]->lock();
}

void unlock_all() {
  for (size_t i = kept_count; i > 0; --i) kept[i - 1]->unlock();
}

void in_child() {
  forked = true;
  unlock_all();
}

#if defined(__unix__) || defined(__APPLE__)
[[maybe_unused]] const int registered = pthread_atfork(lock_all, unlock_all, in_child);
#endif

}  // namespace

bool is_forked() { return forked.load(std::memory_order_relaxed); }

void keep_across_forks(std::mutex& mutex) {
  kept.at(kept_count) = &mutex;
  ++kept_count;
}

}  // namespace fusedlm
