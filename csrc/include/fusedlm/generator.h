#pragma once
// Continuous batching on one engine: requests come at any time, share steps, and leave when they end.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "fusedlm/engine.h"

namespace fusedlm {

/// How tokens are drawn (see sampling.h) and when a text ends.
struct Request {
  std::vector<int32_t> prompt;  ///< at least one token
  index_t max_new_tokens = 256;
  double temperature = 1.0;
  index_t top_k = 0;
  double top_p = 1.0, min_p = 0.0, repetition_penalty = 1.0;
  uint64_t seed = 0;
  std::vector<int32_t> stop_ids{};  ///< beside the model's own ends, unless `ignore_eos`
  bool ignore_eos = false;
  /// Speculative decoding: guess so many tokens by looking up the last n-gram in what was said before
  /// (prompt look-up decoding), and check them in one step. The text is the same as without. 0: off.
  index_t guess_tokens = 0;
  /// Called before each draw with the tokens so far; writes a bit for each token of the vocabulary that
  /// may come (bit v % 32 of word v / 32) and returns true, or returns false: all may. May be empty. It is
  /// called on the thread that steps.
  std::function<bool(std::span<const int32_t> new_tokens, std::span<uint32_t> allowed)> allow{};
};

/// What a step did for one request.
struct Event {
  enum class End : uint8_t { none, stop, length, cancelled };
  uint64_t request = 0;
  std::vector<int32_t> tokens;   ///< new ones, in order; an end token is left out
  std::vector<float> log_probs;  ///< of each, among the tokens kept by the filters
  End end = End::none;
};

struct GeneratorStats {
  index_t waiting = 0, running = 0;
  uint64_t prompt_tokens = 0, reused_tokens = 0, new_tokens = 0, guessed_tokens = 0,
           accepted_tokens = 0;
};

/// A text is the same bits whatever runs beside it, for any number of threads, and with or without
/// guesses; where its prompt repeats text that was generated here, those of its pages that are found keep
/// the bits of that time (see Engine::open). If running texts outgrow the cache, the youngest waits and
/// goes on later as if nothing had happened; one that fills the whole cache alone ends with End::length.
/// Generators with an engine each are independent, and may run in threads of their own. One generator, with its
/// engine, is for one thread at a time: hand it round under a lock, or otherwise in order.
class Generator {
 public:
  /// Throws InvalidArgument where there is no engine, or most_running is less than 1.
  explicit Generator(std::shared_ptr<Engine> engine, index_t most_running = 16);
  ~Generator();

  /// Throws InvalidArgument naming the field. A prompt that fills the context gets no token.
  uint64_t submit(Request request);
  /// Ends a request; its event comes with the next step. Unknown ids are ignored. Throws nothing.
  void cancel(uint64_t request);
  /// One step for all that run, among them pieces of prompts of those that begin. Without any request
  /// nothing happens and nothing is returned. Throws, at the end of the step, what `allow` has thrown, or
  /// InvalidArgument where no token can be drawn: that request is cancelled, the events come with the next. Throws
  /// OutOfMemory where there is no scratch memory.
  std::vector<Event> step();
  bool idle() const noexcept;
  GeneratorStats stats() const noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// One request from start to end. on_token is called for each token as it comes; false ends the text. Throws what
/// `submit` and `step` do, and what on_token throws.
std::vector<int32_t> generate(Engine& engine, const Request& request,
                              const std::function<bool(int32_t token)>& on_token = {});

}  // namespace fusedlm
