#pragma once
// Engine and Generator as Python holds them: the same object may be used from several threads.

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>

#include "bindings/binding.h"
#include "fusedlm/engine.h"

namespace fusedlm::bindings {

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
    const std::lock_guard lock(mutex_);
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
  std::mutex mutex_;
  std::atomic<std::thread::id> user_;
};

}  // namespace fusedlm::bindings
