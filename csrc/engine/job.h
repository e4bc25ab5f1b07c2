#pragma once
// A request under way, and how its next tokens are drawn from logits.

#include <exception>
#include <span>
#include <vector>

#include "fusedlm/generator.h"
#include "fusedlm/quantized_linear.h"

namespace fusedlm::engine {

struct Job {
  uint64_t id = 0;
  Request request;
  std::vector<int32_t> tokens;  ///< the prompt and what came after
  std::vector<int64_t> seen;    ///< the same, for the repetition penalty; empty without one
  Engine::Sequence sequence = -1;
  bool counted = false;  ///< in the statistics of prompts
  Event event;           ///< of this step
  std::exception_ptr error;
  index_t guessed = 0, accepted = 0;  ///< in this step

  index_t prompt_length() const { return static_cast<index_t>(request.prompt.size()); }
  index_t length() const { return static_cast<index_t>(tokens.size()); }
  index_t new_tokens() const { return length() - prompt_length(); }
  /// Tokens of the prompt that go through many at a time: all but the last, if that is more than a pass of
  /// few takes. All other tokens go the way of decoding, so that what a text says does not depend on
  /// what was found in the cache.
  index_t batched() const {
    return prompt_length() - 1 > QuantizedLinear::kStreamedRows ? prompt_length() - 1 : 0;
  }
  void add(int32_t token, float log_prob);
};

/// Throws InvalidArgument naming the field that does not fit.
void check_request(const Request& request, const Engine& engine);

/// Draws tokens from rows of logits [1 + guesses, V], as long as they are those that were guessed, into
/// the job and its event. Sets event.end where the text ends, or error where no token can be drawn.
/// Logits that `allow` forbids are overwritten.
void draw_tokens(Job& job, const Model& model, std::span<const int32_t> guesses, float* logits);

}  // namespace fusedlm::engine
