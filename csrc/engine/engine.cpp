#include "fusedlm/engine.h"

#include <algorithm>
#include <limits>
#include <string>
#include <unordered_map>

#include "core/check.h"
#include "core/team.h"
#include "engine/step.h"

namespace fusedlm {
namespace {

constexpr const char* kOp = "engine";
// Half of it is more than kStreamedRows: no piece of a longer call is taken for one that decodes.
constexpr index_t kLeastPrefill = 64;
constexpr size_t kDefaultCacheBytes = size_t{1} << 30;

EngineOptions complete(EngineOptions options, const DecoderConfig& config) {
  if (options.dtype != DType::float32 && options.dtype != DType::bfloat16) {
    check::fail(
        kOp, std::string("dtype is ") + name_of(options.dtype) + ", expected float32 or bfloat16");
  }
  if (options.cache_tokens < 0) {
    check::fail(
        kOp, "cache_tokens is " + std::to_string(options.cache_tokens) + ", expected at least 0");
  }
  if (options.prefill_tokens < kLeastPrefill) {
    check::fail(kOp, "prefill_tokens is " + std::to_string(options.prefill_tokens) +
                         ", expected at least " + std::to_string(kLeastPrefill));
  }
  const size_t page = engine::page_bytes(config, options.dtype) * 2 * config.layers;
  // Pages are numbered in 32 bits, and all bytes of the cache in 63.
  const auto countable = static_cast<index_t>(std::numeric_limits<index_t>::max() / page);
  const index_t most =
      std::min<index_t>(countable, std::numeric_limits<int32_t>::max()) * Engine::kPageTokens;
  if (options.cache_tokens > most) {
    check::fail(kOp, "cache_tokens is " + std::to_string(options.cache_tokens) +
                         ", expected at most " + std::to_string(most));
  }
  index_t pages = engine::pages_of(options.cache_tokens);
  if (options.cache_tokens == 0) {
    const auto fitting = static_cast<index_t>(kDefaultCacheBytes / page);
    pages = std::max<index_t>(1, std::min(engine::pages_of(2 * config.context), fitting));
  }
  options.cache_tokens = pages * Engine::kPageTokens;
  // No step is longer than what the cache holds.
  options.prefill_tokens = std::min(options.prefill_tokens, options.cache_tokens);
  return options;
}

}  // namespace

struct Engine::State {
  std::shared_ptr<const Model> model;
  EngineOptions options;
  engine::PagedCache cache;
  engine::DecoderStep step;
  std::unordered_map<Sequence, engine::CachedSequence> sequences;
  Sequence last = -1;

  State(std::shared_ptr<const Model> given, const EngineOptions& wanted)
      : model(std::move(given)),
        options(complete(wanted, model->config)),
        cache(model->config, options.dtype, engine::pages_of(options.cache_tokens)),
        step(model, options.dtype, options.prefill_tokens) {}

  engine::CachedSequence& sequence(Sequence id) {
    const auto found = sequences.find(id);
    if (found == sequences.end()) {
      check::fail(kOp, "sequence " + std::to_string(id) + " is not open");
    }
    return found->second;
  }
  void check(std::span<const Append> appends, size_t logits);
  void reserve(std::span<const Append> appends);
  void run(std::span<const Append> appends, float* logits);
};

void Engine::State::check(std::span<const Append> appends, size_t logits) {
  index_t rows = 0;
  for (size_t i = 0; i < appends.size(); ++i) {
    const Append& a = appends[i];
    const index_t length = sequence(a.sequence).length();
    const auto count = static_cast<index_t>(a.tokens.size());
    const std::string name = "sequence " + std::to_string(a.sequence);
    for (size_t j = 0; j < i; ++j) {
      if (appends[j].sequence == a.sequence) check::fail(kOp, name + " is given twice");
    }
    if (count == 0) check::fail(kOp, name + " gets no token, expected at least one");
    check::ids(kOp, "tokens", a.tokens, model->config.vocab_size);
    if (length + count > model->config.context) {
      check::fail(kOp, name + " has " + std::to_string(length) + " tokens and would get " +
                           std::to_string(count) + " more, expected at most the context of " +
                           std::to_string(model->config.context));
    }
    rows += engine::logit_rows(a.logits, count);
  }
  if (const index_t expected = rows * model->config.vocab_size;
      static_cast<index_t>(logits) != expected) {
    check::fail(kOp, "logits has " + std::to_string(logits) + " elements, expected " +
                         std::to_string(rows) +
                         " rows of V = " + std::to_string(model->config.vocab_size));
  }
}

void Engine::State::reserve(std::span<const Append> appends) {
  index_t missing = 0;
  for (const Append& a : appends) {
    missing += cache.missing_pages(sequence(a.sequence), static_cast<index_t>(a.tokens.size()));
  }
  if (missing > cache.free_pages()) {
    throw OutOfMemory("engine: " + std::to_string(missing) +
                      " pages of the cache are needed, but " + std::to_string(cache.free_pages()) +
                      " are free (cache_tokens is " + std::to_string(options.cache_tokens) + ")");
  }
  for (const Append& a : appends) {
    cache.reserve(sequence(a.sequence), static_cast<index_t>(a.tokens.size()));
  }
}

void Engine::State::run(std::span<const Append> appends, float* logits) {
  index_t total = 0;
  for (const Append& a : appends) total += static_cast<index_t>(a.tokens.size());
  const index_t pieces = (total + options.prefill_tokens - 1) / options.prefill_tokens;
  auto append = appends.begin();
  index_t taken = 0;  // of *append
  std::vector<engine::Segment> segments;
  for (index_t piece = 0; piece < pieces; ++piece) {
    index_t left = total * (piece + 1) / pieces - total * piece / pieces, logits_rows = 0;
    segments.clear();
    while (left > 0) {
      const engine::CachedSequence& s = sequence(append->sequence);
      const auto count = static_cast<index_t>(append->tokens.size());
      const index_t now = std::min(left, count - taken);
      const bool ends = taken + now == count;
      const Logits wanted = append->logits == Logits::last && !ends ? Logits::none : append->logits;
      segments.push_back(
          {append->tokens.subspan(static_cast<size_t>(taken), static_cast<size_t>(now)),
           s.length() + taken, s.pages, wanted});
      logits_rows += engine::logit_rows(wanted, now);
      left -= now, taken = ends ? 0 : taken + now;
      if (ends) ++append;
    }
    step.run(segments, cache, logits, Context::current());
    logits += logits_rows * model->config.vocab_size;
  }
}

Engine::Engine(std::shared_ptr<const Model> model, const EngineOptions& options) {
  if (!model) check::fail(kOp, "model is missing");
  state_ = std::make_unique<State>(std::move(model), options);
}
Engine::~Engine() = default;

const Model& Engine::model() const noexcept { return *state_->model; }
const EngineOptions& Engine::options() const noexcept { return state_->options; }

Engine::Sequence Engine::open(std::span<const int32_t> prompt) {
  check::ids(kOp, "prompt", prompt, model().config.vocab_size);
  state_->sequences.emplace(++state_->last, state_->cache.open(prompt));
  return state_->last;
}

void Engine::close(Sequence sequence) {
  state_->cache.close(state_->sequence(sequence));
  state_->sequences.erase(sequence);
}

index_t Engine::length(Sequence sequence) const { return state_->sequence(sequence).length(); }

void Engine::truncate(Sequence sequence, index_t length) {
  engine::CachedSequence& s = state_->sequence(sequence);
  if (length < 0 || length > s.length()) {
    check::fail(kOp, "length is " + std::to_string(length) + ", expected 0 to the " +
                         std::to_string(s.length()) + " tokens of sequence " +
                         std::to_string(sequence));
  }
  state_->cache.truncate(s, length);
}

index_t Engine::free_tokens() const noexcept { return state_->cache.free_pages() * kPageTokens; }

void Engine::forward(std::span<const Append> appends, std::span<float> logits) {
  State& state = *state_;
  state.check(appends, logits.size());
  if (appends.empty()) return;
  state.reserve(appends);
  try {
    with_team([&] { state.run(appends, logits.data()); });
  } catch (...) {
    for (const Append& a : appends) {  // room that was made goes back
      engine::CachedSequence& s = state.sequence(a.sequence);
      state.cache.truncate(s, s.length());
    }
    throw;
  }
  for (const Append& a : appends) state.cache.append(state.sequence(a.sequence), a.tokens);
}

}  // namespace fusedlm
