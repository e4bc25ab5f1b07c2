#pragma once
// Engine and Generator as Python holds them: the same object may be used from several threads.

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "bindings/binding.h"
#include "fusedlm/engine.h"

namespace fusedlm::bindings {

/// Lets threads through in the order in which they came: one that steps all the time must not keep others
/// from submitting.
class FairMutex {
 public:
  void lock() {
    std::unique_lock lock(mutex_);
    const uint64_t mine = next_++;
    turn_.wait(lock, [&] { return serving_ == mine; });
  }
  void unlock() {
    {
      const std::lock_guard lock(mutex_);
      ++serving_;
    }
    turn_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable turn_;
  uint64_t next_ = 0, serving_ = 0;
};

class SharedEngine {
 public:
  explicit SharedEngine(std::shared_ptr<Engine> engine) : engine_(std::move(engine)) {}

  const std::shared_ptr<Engine>& engine() const { return engine_; }

  /// fn(engine), one thread at a time, without the interpreter lock.
  template <class Fn>
  auto call(Fn&& fn) {
    if (user_.load() == std::this_thread::get_id()) {
      throw std::runtime_error("Engine: called from inside a callback of its own");
    }
    const pybind11::gil_scoped_release release;
    const std::lock_guard guard(mutex_);
    const User user(user_);
    return fn(*engine_);
  }

 private:
  struct User {
    explicit User(std::atomic<std::thread::id>& id) : id(id) { id = std::this_thread::get_id(); }
    ~User() { id = std::thread::id(); }
    std::atomic<std::thread::id>& id;
  };

  std::shared_ptr<Engine> engine_;
  FairMutex mutex_;
  std::atomic<std::thread::id> user_;
};

}  // namespace fusedlm::bindings
