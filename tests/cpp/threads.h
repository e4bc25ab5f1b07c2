#pragma once
#include <latch>
#include <thread>
#include <vector>

namespace fusedlm::test {

/// body(i) for each i below `count`, each on a thread of its own; none begins before all are there.
template <class Body>
void in_threads(int count, Body&& body) {
  std::latch all(count);
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) {
    threads.emplace_back([&, i] {
      all.arrive_and_wait();
      body(i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace fusedlm::test
