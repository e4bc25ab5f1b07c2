#include "engine/job.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include "core/check.h"
#include "fusedlm/sampling.h"

namespace fusedlm::engine {
namespace {

constexpr const char* kOp = "generate";

template <class T>
void require(bool fits, const char* field, T value, const std::string& expected) {
  if (fits) return;
  std::ostringstream text;
  text << field << " is " << value << ", expected " << expected;
  check::fail(kOp, text.str());
}

bool is_end(const Job& job, const DecoderConfig& config, int32_t token) {
  const auto holds = [&](const std::vector<int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), token) != ids.end();
  };
  return holds(job.request.stop_ids) || (!job.request.ignore_eos && holds(config.eos_ids));
}

void forbid(const Job& job, float* logits, index_t V) {
  std::vector<uint32_t> allowed(static_cast<size_t>((V + 31) / 32));
  const auto said = std::span(job.tokens).subspan(job.request.prompt.size());
  if (!job.request.allow(said, allowed)) return;
  for (index_t v = 0; v < V; ++v) {
    if (!(allowed[static_cast<size_t>(v / 32)] >> (v % 32) & 1)) {
      logits[v] = -std::numeric_limits<float>::infinity();
    }
  }
}

void draw_one(Job& job, const Model& model, float* logits) {
  const index_t V = model.config.vocab_size;
  const Request& r = job.request;
  if (r.allow) forbid(job, logits, V);
  int64_t token = -1;
  float log_prob = 0.0f;
  Sample args;
  args.logits = {logits, DType::float32, {1, V}};
  args.tokens = {&token, DType::int64, {1}};
  args.log_probs = {&log_prob, DType::float32, {1}};
  args.temperature = r.temperature;
  args.top_k = r.top_k;
  args.top_p = r.top_p;
  args.min_p = r.min_p;
  args.repetition_penalty = r.repetition_penalty;
  if (r.repetition_penalty != 1) {
    args.seen = {job.seen.data(), DType::int64, {1, static_cast<index_t>(job.seen.size())}};
  }
  args.seed = r.seed;
  args.step = static_cast<uint32_t>(job.new_tokens());
  sample(args, Context::current());
  if (is_end(job, model.config, static_cast<int32_t>(token))) {
    job.event.end = Event::End::stop;
    return;
  }
  job.add(static_cast<int32_t>(token), log_prob);
  if (job.new_tokens() == r.max_new_tokens || job.length() == model.config.context) {
    job.event.end = Event::End::length;
  }
}

}  // namespace

void Job::add(int32_t token, float log_prob) {
  tokens.push_back(token);
  if (request.repetition_penalty != 1) seen.push_back(token);
  event.tokens.push_back(token);
  event.log_probs.push_back(log_prob);
}

void check_request(const Request& r, const Engine& engine) {
  const DecoderConfig& config = engine.model().config;
  const auto length = static_cast<index_t>(r.prompt.size());
  if (r.prompt.empty()) check::fail(kOp, "prompt is empty, expected at least one token");
  check::ids(kOp, "prompt", r.prompt, config.vocab_size);
  check::ids(kOp, "stop_ids", r.stop_ids, config.vocab_size);
  if (length > config.context) {
    check::fail(kOp, "prompt has " + std::to_string(length) + " tokens, expected at most the " +
                         std::to_string(config.context) + " of the model's context");
  }
  if (length >= engine.options().cache_tokens && length < config.context) {
    check::fail(kOp, "prompt has " + std::to_string(length) + " tokens, expected fewer than the " +
                         std::to_string(engine.options().cache_tokens) +
                         " of the engine's cache (cache_tokens)");
  }
  require(r.max_new_tokens >= 0, "max_new_tokens", r.max_new_tokens, "at least 0");
  require(r.temperature >= 0 && std::isfinite(r.temperature), "temperature", r.temperature,
          "a finite number of at least 0");
  require(r.top_k >= 0, "top_k", r.top_k, "at least 0");
  require(r.top_p > 0 && r.top_p <= 1, "top_p", r.top_p, "0 < p <= 1");
  require(r.min_p >= 0 && r.min_p <= 1, "min_p", r.min_p, "0 <= p <= 1");
  require(r.repetition_penalty > 0 && std::isfinite(r.repetition_penalty), "repetition_penalty",
          r.repetition_penalty, "a finite number above 0");
  require(r.guess_tokens >= 0, "guess_tokens", r.guess_tokens, "at least 0");
}

void draw_tokens(Job& job, const Model& model, std::span<const int32_t> guesses, float* logits) {
  try {
    for (size_t row = 0; row <= guesses.size(); ++row) {
      draw_one(job, model, logits + static_cast<index_t>(row) * model.config.vocab_size);
      const bool goes_on = job.event.end == Event::End::none && row < guesses.size() &&
                           job.tokens.back() == guesses[row];
      if (!goes_on) return;
      ++job.accepted;
    }
  } catch (...) {
    job.error = std::current_exception();
  }
}

}  // namespace fusedlm::engine
