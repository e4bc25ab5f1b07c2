// A step: prompts get a piece of what goes many tokens at a time, then all others go through in passes of up
// to kStreamedRows tokens: those that decode, last tokens of prompts, texts that were put back and catch
// up, and guesses. Which kind of pass a token takes depends on its request alone, and in a pass no token's
// bits depend on the others: so a text is the same whatever runs beside it.

#include "fusedlm/generator.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "core/check.h"
#include "core/parallel.h"
#include "engine/cache.h"
#include "engine/guess.h"
#include "engine/job.h"

namespace fusedlm {

using engine::Job;
using engine::pages_of;

namespace {

constexpr index_t kPage = Engine::kPageTokens, kRows = QuantizedLinear::kStreamedRows;
// Of prompts in a step while texts are decoding, so that those keep flowing: about 80 ms of a model of
// 135 M parameters on two cores.
constexpr index_t kMixedTokens = 4 * kPage;

/// What one job does in a pass.
struct Part {
  Job* job;
  index_t first, count;  ///< of its tokens
  bool draws;            ///< they are its last: a token is drawn
  std::vector<int32_t> guesses;
};
struct Pass {
  std::vector<Part> parts;
  index_t rows = 0;
};

/// Pages that the passes write into and that their texts do not have yet.
index_t new_pages(const std::vector<Pass>& passes) {
  index_t pages = 0;
  for (const Pass& pass : passes) {
    for (const Part& part : pass.parts) {
      pages += pages_of(part.first + part.count) - pages_of(part.first);
    }
  }
  return pages;
}

// How many of a prompt's `left` tokens go through now: more than kRows, and as many left for later, or none.
index_t piece_of(index_t left, index_t budget) {
  if (left <= budget) return left;
  const index_t piece = std::min(budget, left - kRows - 1);
  return piece > kRows ? piece : 0;
}

}  // namespace

struct Generator::State {
  std::shared_ptr<Engine> engine;
  index_t most_running = 0;
  uint64_t last_id = 0;
  std::deque<std::unique_ptr<Job>> waiting;
  std::vector<std::unique_ptr<Job>> running;  // the oldest first
  std::vector<Event> events;
  std::exception_ptr error;
  std::vector<float> logits;
  GeneratorStats stats;

  index_t cached(const Job& job) const { return engine->length(job.sequence); }
  index_t context() const { return engine->model().config.context; }
  /// Tokens that a job still needs before it draws, and room for one more.
  index_t missing_pages(const Job& job) const {
    return pages_of(job.length() + 1) - pages_of(cached(job));
  }

  void open(Job& job);
  void admit();
  void prefill();
  void decode();
  std::vector<Pass> plan();
  void guess(std::vector<Pass>& passes);
  void run(Pass& pass);
  bool make_room(const std::vector<Pass>& passes);
  void put_back_youngest();
  void end(std::unique_ptr<Job> job);
  void collect();
};

// With what the cache holds of it; though a pass of many tokens must be left with more than kRows.
void Generator::State::open(Job& job) {
  job.sequence = engine->open(job.tokens);
  const index_t length = cached(job), left = job.batched() - length;
  if (left > 0 && left <= kRows) engine->truncate(job.sequence, length - kPage);
}

// Moves jobs from the queue as long as their prompts fit beside what the running ones were promised.
void Generator::State::admit() {
  while (!waiting.empty() && static_cast<index_t>(running.size()) < most_running) {
    Job& job = *waiting.front();
    open(job);
    index_t promised = 0;
    for (const auto& other : running) promised += missing_pages(*other);
    if ((promised + missing_pages(job)) * kPage > engine->free_tokens() && !running.empty()) {
      engine->close(std::exchange(job.sequence, -1));
      return;
    }
    if (!job.counted) {
      stats.prompt_tokens += static_cast<uint64_t>(job.prompt_length());
      stats.reused_tokens += static_cast<uint64_t>(cached(job));
      job.counted = true;
    }
    running.push_back(std::move(waiting.front()));
    waiting.pop_front();
  }
}

void Generator::State::prefill() {
  const auto left_of = [&](const Job& job) { return job.batched() - cached(job); };
  const bool alone = std::all_of(running.begin(), running.end(),
                                 [&](const auto& job) { return left_of(*job) > 0; });
  const index_t most = engine->options().prefill_tokens;
  while (true) {
    index_t budget = alone ? most : std::min(most, kMixedTokens);
    Pass pass;
    for (const auto& job : running) {
      const index_t left = left_of(*job), count = left > 0 ? piece_of(left, budget) : 0;
      if (count == 0) continue;
      pass.parts.push_back({job.get(), cached(*job), count, false, {}});
      budget -= count;
    }
    if (pass.parts.empty()) return;
    std::vector<Pass> passes{std::move(pass)};
    if (!make_room(passes)) continue;
    return run(passes[0]);
  }
}

void Generator::State::decode() {
  while (true) {
    std::vector<Pass> passes = plan();
    if (!make_room(passes)) continue;
    guess(passes);
    for (Pass& pass : passes) run(pass);
    return;
  }
}

// Those that decode come first, then what is longer, cut where a pass is full.
std::vector<Pass> Generator::State::plan() {
  std::vector<Job*> jobs;
  for (const auto& job : running) {
    if (cached(*job) >= job->batched()) jobs.push_back(job.get());
  }
  std::stable_partition(jobs.begin(), jobs.end(),
                        [&](Job* job) { return job->length() - cached(*job) == 1; });
  index_t budget = running.size() > 1 ? kMixedTokens : engine->options().prefill_tokens;
  std::vector<Pass> passes;
  for (Job* job : jobs) {
    const index_t end = job->length();
    const bool decodes = end - cached(*job) == 1;
    for (index_t at = cached(*job); at < end && (decodes || budget > 0);) {
      if (passes.empty() || passes.back().rows == kRows) passes.emplace_back();
      Pass& pass = passes.back();
      const index_t count = std::min(end - at, kRows - pass.rows);
      pass.parts.push_back({job, at, count, at + count == end, {}});
      pass.rows += count;
      at += count;
      if (!decodes) budget -= count;
    }
  }
  return passes;
}

// Rows and pages that are left go to guesses, in equal shares. Whether a text gets some decides how soon
// it comes, not what it says.
void Generator::State::guess(std::vector<Pass>& passes) {
  index_t free_pages = engine->free_tokens() / kPage - new_pages(passes);
  const auto wants = [](const Part& part) {
    return part.draws && part.count == 1 && part.job->request.guess_tokens > 0;
  };
  for (Pass& pass : passes) {
    std::vector<Part*> wanting;
    for (Part& part : pass.parts)
      if (wants(part)) wanting.push_back(&part);
    for (size_t at = 0; at < wanting.size(); ++at) {
      Part& part = *wanting[at];
      const auto sharing = static_cast<index_t>(wanting.size() - at);
      const Job& job = *part.job;
      const index_t room = (pages_of(job.length()) + free_pages) * kPage - job.length();
      const index_t most = std::min({job.request.guess_tokens, (kRows - pass.rows) / sharing, room,
                                     job.request.max_new_tokens - job.new_tokens() - 1,
                                     context() - job.length() - 1});
      const auto guessed = engine::guess_next(job.tokens, most);
      part.guesses.assign(guessed.begin(), guessed.end());
      const auto count = static_cast<index_t>(guessed.size());
      pass.rows += count;
      free_pages -= pages_of(job.length() + count) - pages_of(job.length());
    }
  }
}

// Whether pages are free for all that the passes write. If not, the youngest job waits again (or, alone,
// ends), and there is another plan to be made.
bool Generator::State::make_room(const std::vector<Pass>& passes) {
  if (new_pages(passes) * kPage <= engine->free_tokens()) return true;
  put_back_youngest();
  return false;
}

void Generator::State::put_back_youngest() {
  std::unique_ptr<Job> job = std::move(running.back());
  running.pop_back();
  engine->close(std::exchange(job->sequence, -1));
  if (running.empty()) {  // it has the whole cache, and that is full
    job->event.end = Event::End::length;
    return end(std::move(job));
  }
  waiting.push_front(std::move(job));
}

void Generator::State::run(Pass& pass) {
  const index_t V = engine->model().config.vocab_size;
  std::vector<Engine::Append> appends;
  std::vector<std::vector<int32_t>> with_guesses;  // what the spans of those parts point to
  with_guesses.reserve(pass.parts.size());
  index_t rows = 0;
  for (const Part& part : pass.parts) {
    const auto begin = part.job->tokens.begin() + part.first;
    std::span<const int32_t> tokens(begin, begin + part.count);
    auto logits = part.draws ? Engine::Logits::last : Engine::Logits::none;
    if (!part.guesses.empty()) {
      auto& all = with_guesses.emplace_back(tokens.begin(), tokens.end());
      all.insert(all.end(), part.guesses.begin(), part.guesses.end());
      tokens = all, logits = Engine::Logits::all;
    }
    appends.push_back({part.job->sequence, tokens, logits});
    rows += engine::logit_rows(logits, static_cast<index_t>(tokens.size()));
  }
  logits.resize(std::max(logits.size(), static_cast<size_t>(rows * V)));
  engine->forward(appends, std::span(logits).first(static_cast<size_t>(rows * V)));

  std::vector<std::pair<Part*, float*>> drawing;  // a callback runs on the caller's thread
  float* at = logits.data();
  for (Part& part : pass.parts) {
    if (!part.draws) continue;
    if (part.job->request.allow) {
      draw_tokens(*part.job, engine->model(), part.guesses, at);
    } else {
      drawing.emplace_back(&part, at);
    }
    at += (1 + static_cast<index_t>(part.guesses.size())) * V;
  }
  parallel_for(static_cast<index_t>(drawing.size()), [&](index_t i, int) {
    const auto& [part, row] = drawing[static_cast<size_t>(i)];
    draw_tokens(*part->job, engine->model(), part->guesses, row);
  });
  for (const Part& part : pass.parts) {
    if (part.guesses.empty()) continue;
    part.job->guessed += static_cast<index_t>(part.guesses.size());
    // Guesses that were wrong are forgotten; the last token is not in the cache yet.
    engine->truncate(part.job->sequence, std::min(cached(*part.job), part.job->length() - 1));
  }
}

void Generator::State::end(std::unique_ptr<Job> job) {
  if (job->sequence >= 0) engine->close(job->sequence);
  job->event.request = job->id;
  events.push_back(std::move(job->event));
}

// Events of this step, the oldest job's first; those that ended leave.
void Generator::State::collect() {
  std::vector<std::unique_ptr<Job>> staying;
  for (auto& job : running) {
    stats.new_tokens += job->event.tokens.size();
    stats.guessed_tokens += static_cast<uint64_t>(std::exchange(job->guessed, 0));
    stats.accepted_tokens += static_cast<uint64_t>(std::exchange(job->accepted, 0));
    if (job->error) {
      if (!error) error = job->error;
      job->event.end = Event::End::cancelled;
    }
    if (job->event.end != Event::End::none) {
      end(std::move(job));
      continue;
    }
    if (!job->event.tokens.empty()) {
      job->event.request = job->id;
      events.push_back(std::exchange(job->event, {}));
    }
    staying.push_back(std::move(job));
  }
  running = std::move(staying);
}

Generator::Generator(std::shared_ptr<Engine> engine, index_t most_running)
    : state_(std::make_unique<State>()) {
  if (!engine) check::fail("Generator", "engine is missing");
  if (most_running < 1) {
    check::fail("Generator",
                "most_running is " + std::to_string(most_running) + ", expected at least 1");
  }
  state_->engine = std::move(engine);
  state_->most_running = most_running;
}

Generator::~Generator() {
  for (const auto& job : state_->running) state_->engine->close(job->sequence);
}

uint64_t Generator::submit(Request request) {
  State& s = *state_;
  engine::check_request(request, *s.engine);
  auto job = std::make_unique<Job>();
  job->id = ++s.last_id;
  job->request = std::move(request);
  job->tokens = job->request.prompt;
  if (job->request.repetition_penalty != 1)
    job->seen.assign(job->tokens.begin(), job->tokens.end());
  if (job->request.max_new_tokens == 0 || job->length() == s.context()) {
    job->event.end = Event::End::length;
    s.end(std::move(job));
  } else {
    s.waiting.push_back(std::move(job));
  }
  return s.last_id;
}

void Generator::cancel(uint64_t request) {
  const auto cancel_in = [&](auto& jobs) {
    const auto found =
        std::find_if(jobs.begin(), jobs.end(), [&](const auto& job) { return job->id == request; });
    if (found == jobs.end()) return;
    std::unique_ptr<Job> job = std::move(*found);
    jobs.erase(found);
    job->event.end = Event::End::cancelled;
    state_->end(std::move(job));
  };
  cancel_in(state_->waiting);
  cancel_in(state_->running);
}

std::vector<Event> Generator::step() {
  State& s = *state_;
  s.admit();
  s.prefill();
  s.decode();
  s.collect();
  if (s.error) std::rethrow_exception(std::exchange(s.error, nullptr));
  return std::exchange(s.events, {});
}

bool Generator::idle() const noexcept {
  return state_->waiting.empty() && state_->running.empty() && state_->events.empty();
}

GeneratorStats Generator::stats() const noexcept {
  GeneratorStats stats = state_->stats;
  stats.waiting = static_cast<index_t>(state_->waiting.size());
  stats.running = static_cast<index_t>(state_->running.size());
  return stats;
}

std::vector<int32_t> generate(Engine& engine, const Request& request,
                              const std::function<bool(int32_t token)>& on_token) {
  Generator generator(std::shared_ptr<Engine>(std::shared_ptr<Engine>(), &engine), 1);
  const uint64_t id = generator.submit(request);
  std::vector<int32_t> tokens;
  while (!generator.idle()) {
    for (const Event& event : generator.step()) {
      for (const int32_t token : event.tokens) {
        tokens.push_back(token);
        if (!on_token || on_token(token)) continue;
        generator.cancel(id);
        return tokens;
      }
    }
  }
  return tokens;
}

}  // namespace fusedlm
