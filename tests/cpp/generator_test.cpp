// Continuous batching: a text is the same whatever runs beside it, and everything that can end one does.

#include "fusedlm/generator.h"

#include <map>

#include "small_decoder.h"

namespace fusedlm::test {
namespace {

using End = Event::End;
using Tokens = std::vector<int32_t>;

const SmallDecoder& decoder() {
  static const auto* d = new SmallDecoder("llama", llama_config(), Extras{.tied = false});
  return *d;
}

std::shared_ptr<Engine> engine(EngineOptions options = {}) {
  return std::make_shared<Engine>(decoder().model, options);
}

struct Text {
  Tokens tokens;
  std::vector<float> log_probs;
  End end = End::none;
  bool operator==(const Text&) const = default;
};

using Texts = std::map<uint64_t, Text>;

void step(Generator& generator, Texts& texts) {
  for (const Event& event : generator.step()) {
    Text& text = texts[event.request];
    text.tokens.insert(text.tokens.end(), event.tokens.begin(), event.tokens.end());
    text.log_probs.insert(text.log_probs.end(), event.log_probs.begin(), event.log_probs.end());
    text.end = event.end;
  }
}

Texts run(Generator& generator) {
  Texts texts;
  while (!generator.idle()) step(generator, texts);
  return texts;
}

Request request(index_t length, uint64_t seed, index_t new_tokens = 20) {
  Request r;
  r.prompt = random_tokens(length, decoder().config.vocab_size, seed);
  r.max_new_tokens = new_tokens;
  r.seed = seed;
  return r;
}

Text alone(const Request& r, EngineOptions options = {}) {
  Generator generator(engine(options), 1);
  const uint64_t id = generator.submit(r);
  return run(generator).at(id);
}

/// Requests of all kinds, with prompts shorter and longer than a page.
std::vector<Request> mixed() {
  std::vector<Request> list;
  for (const index_t length : {1, 17, 33, 100, 64, 5, 151, 18, 40}) {
    Request r = request(length, 100 + list.size(), 12 + static_cast<index_t>(list.size()));
    r.temperature = list.size() % 3 == 0 ? 0.0 : 0.8;
    r.top_k = list.size() % 2 ? 20 : 0;
    r.repetition_penalty = list.size() % 4 == 1 ? 1.3 : 1.0;
    list.push_back(r);
  }
  return list;
}

TEST(Generator, GreedyTextIsWhatTheReferenceFindsMostLikely) {
  Request r = request(10, 1, 30);
  r.temperature = 0;
  Engine exact(decoder().model, {.dtype = DType::float32});
  Tokens text = r.prompt;
  for (const int32_t token : generate(exact, r)) {
    const Matrix logits = reference_logits(decoder(), text);
    const auto last = logits.values.end() - logits.columns;
    EXPECT_EQ(token, std::max_element(last, logits.values.end()) - last);
    text.push_back(token);
  }
  EXPECT_EQ(text.size(), 40u);
}

TEST(Generator, ATextIsTheSameAloneAndBesideOthers) {
  on_every_isa([] {
    if (current_isa() == Isa::simt) return;
    const std::vector<Request> requests = mixed();
    for (const index_t most_running : {2, 16}) {
      Generator generator(engine(), most_running);
      std::vector<uint64_t> ids;
      Texts texts;
      for (const Request& r : requests) {  // they come while others run
        ids.push_back(generator.submit(r));
        step(generator, texts);
        step(generator, texts);
      }
      while (!generator.idle()) step(generator, texts);
      for (size_t i = 0; i < requests.size(); ++i) {
        EXPECT_TRUE(texts[ids[i]] == alone(requests[i])) << "request " << i;
        EXPECT_EQ(texts[ids[i]].end, End::length);
      }
    }
  });
}

TEST(Generator, MoreThanSixteenRunAtOnce) {
  Generator generator(engine(), 40);
  std::vector<Request> requests;
  std::vector<uint64_t> ids;
  for (uint64_t i = 0; i < 35; ++i) {
    requests.push_back(request(2 + static_cast<index_t>(i), i, 5));
    ids.push_back(generator.submit(requests.back()));
  }
  auto texts = run(generator);
  for (size_t i = 0; i < requests.size(); i += 7) {
    EXPECT_TRUE(texts[ids[i]] == alone(requests[i])) << "request " << i;
  }
}

TEST(Generator, OneThreadAndTwoGiveTheSameText) {
  const int before = num_threads();
  Generator one(engine()), two(engine());
  for (const Request& r : mixed()) one.submit(r), two.submit(r);
  set_num_threads(1);
  const auto first = run(one);
  set_num_threads(2);
  EXPECT_TRUE(run(two) == first);
  set_num_threads(before);
}

// The random decoder repeats itself when it is greedy, so that many guesses are right; sampled, few are.
TEST(Generator, GuessesDoNotChangeTheText) {
  index_t accepted = 0;
  for (const double temperature : {0.0, 0.3, 1.0}) {
    for (const index_t guess : {1, 4, 100}) {
      Generator generator(engine());
      std::vector<Request> requests;
      std::vector<uint64_t> ids;
      for (uint64_t i = 0; i < 3; ++i) {
        Request r = request(40, i, 60);
        r.temperature = temperature;
        r.repetition_penalty = i == 2 ? 1.05 : 1.0;
        requests.push_back(r);
        r.guess_tokens = guess;
        ids.push_back(generator.submit(r));
      }
      const auto texts = run(generator);
      for (size_t i = 0; i < 3; ++i) {
        EXPECT_TRUE(texts.at(ids[i]) == alone(requests[i])) << temperature << " " << guess;
      }
      const GeneratorStats stats = generator.stats();
      EXPECT_LE(stats.accepted_tokens, stats.guessed_tokens);
      EXPECT_EQ(stats.new_tokens, 180u);
      accepted += static_cast<index_t>(stats.accepted_tokens);
    }
  }
  EXPECT_GT(accepted, 10);
}

TEST(Generator, APromptThatWasSeenIsNotComputedAgainAndGivesTheSameText) {
  const auto shared = engine();
  Generator generator(shared);
  // Of 100 tokens three pages are found, of which the last is computed again: the tokens that are left to a
  // pass of many must be more than those of a pass of few.
  index_t prompts = 0, reused = 0;
  for (const auto& [length, found] : {std::pair<index_t, index_t>{100, 64}, {115, 96}, {16, 0}}) {
    const Request r = request(length, static_cast<uint64_t>(length));
    const Text expected = alone(r);
    for (const bool again : {false, true}) {
      const uint64_t id = generator.submit(r);
      EXPECT_TRUE(run(generator).at(id) == expected) << length;
      prompts += length, reused += again ? found : 0;
      EXPECT_EQ(generator.stats().prompt_tokens, static_cast<uint64_t>(prompts));
      EXPECT_EQ(generator.stats().reused_tokens, static_cast<uint64_t>(reused));
    }
  }
}

TEST(Generator, WhoFindsNoPageWaitsAndGoesOnAsIfNothingHadHappened) {
  std::vector<Request> requests;
  for (uint64_t i = 0; i < 5; ++i) {
    Request r = request(i == 1 ? 70 : 30 + static_cast<index_t>(i), i, 60);
    r.guess_tokens = i % 2 ? 3 : 0;
    requests.push_back(r);
  }
  // 7 pages: two texts at their full length of 3 or 5 do not fit beside a third.
  Generator generator(engine({.cache_tokens = 7 * 32}));
  std::vector<uint64_t> ids;
  for (const Request& r : requests) ids.push_back(generator.submit(r));
  Texts texts;
  step(generator, texts);
  EXPECT_GT(generator.stats().waiting, 0);
  EXPECT_GT(generator.stats().running, 1);
  bool put_back = false;
  while (!generator.idle()) {
    const index_t waiting = generator.stats().waiting;
    step(generator, texts);
    put_back |= generator.stats().waiting > waiting;
  }
  EXPECT_TRUE(put_back);
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_TRUE(texts[ids[i]] == alone(requests[i])) << "request " << i;
  }
}

TEST(Generator, ATextThatFillsTheCacheOrTheContextEnds) {
  Request r = request(50, 1, 1000);
  const Text full = alone(r, {.cache_tokens = 64});
  EXPECT_EQ(full.end, End::length);
  EXPECT_EQ(full.tokens.size(), 15u);  // the last one is not in the cache
  const Text longest = alone(r);
  EXPECT_EQ(longest.end, End::length);
  EXPECT_EQ(longest.tokens.size(), 256u - 50u);
  EXPECT_TRUE(std::equal(full.tokens.begin(), full.tokens.end(), longest.tokens.begin()));
  r.prompt = random_tokens(256, 71, 1);
  EXPECT_TRUE(alone(r) == (Text{{}, {}, End::length}));
  r = request(5, 1, 0);
  EXPECT_TRUE(alone(r) == (Text{{}, {}, End::length}));
}

TEST(Generator, AnEndTokenEndsTheTextAndIsLeftOut) {
  Request r = request(10, 3, 50);
  const Text whole = alone(r);
  const auto end = std::find(whole.tokens.begin() + 10, whole.tokens.end(), whole.tokens[10]);
  const int32_t token = *end;
  const auto first = std::find(whole.tokens.begin(), whole.tokens.end(), token);
  r.stop_ids = {70, token};
  const Text stopped = alone(r);
  EXPECT_EQ(stopped.end, End::stop);
  EXPECT_EQ(stopped.tokens, Tokens(whole.tokens.begin(), first));

  DecoderConfig c = decoder().config;
  c.eos_ids = {token};
  const SmallDecoder with_end("", c, Extras{.tied = false});
  r.stop_ids = {};
  for (const bool ignore : {false, true}) {
    r.ignore_eos = ignore;
    Engine e(with_end.model);
    EXPECT_EQ(generate(e, r), ignore ? whole.tokens : stopped.tokens);
  }
}

TEST(Generator, OnlyAllowedTokensAreDrawn) {
  Request r = request(10, 4, 20);
  const Text free = alone(r);
  std::vector<Tokens> seen;
  r.allow = [&](std::span<const int32_t> tokens, std::span<uint32_t> allowed) {
    EXPECT_EQ(allowed.size(), 3u);
    seen.emplace_back(tokens.begin(), tokens.end());
    if (tokens.size() < 3) return false;
    for (int32_t v = static_cast<int32_t>(tokens.size() % 2); v < 71; v += 2) {
      allowed[static_cast<size_t>(v / 32)] |= 1u << (v % 32);
    }
    return true;
  };
  for (const index_t guess : {0, 4}) {
    seen.clear();
    r.guess_tokens = guess;
    const Text text = alone(r);
    ASSERT_EQ(text.tokens.size(), 20u);
    for (size_t i = 0; i < 20; ++i) {
      EXPECT_EQ(seen[i], Tokens(text.tokens.begin(), text.tokens.begin() + static_cast<int>(i)));
      EXPECT_TRUE(i < 3 ? text.tokens[i] == free.tokens[i]
                        : text.tokens[i] % 2 == static_cast<int32_t>(i % 2));
    }
  }
}

TEST(Generator, WhatAllowThrowsEndsItsRequestAlone) {
  Generator generator(engine());
  Request bad = request(10, 5), none = request(10, 6);
  const Request good = request(10, 7);
  bad.allow = [](std::span<const int32_t> tokens, std::span<uint32_t>) -> bool {
    if (tokens.size() == 2) throw std::runtime_error("no idea");
    return false;
  };
  none.allow = [](std::span<const int32_t>, std::span<uint32_t>) { return true; };  // no bit set
  const uint64_t ids[] = {generator.submit(bad), generator.submit(none), generator.submit(good)};
  std::vector<std::string> errors;
  Texts texts;
  while (!generator.idle()) {
    try {
      step(generator, texts);
    } catch (const std::exception& error) {
      errors.emplace_back(error.what());
    }
  }
  ASSERT_EQ(errors.size(), 2u);
  EXPECT_EQ(errors[0].substr(0, 25), "sample: logits[0] holds N");
  EXPECT_EQ(errors[1], "no idea");
  EXPECT_EQ(texts[ids[0]].end, End::cancelled);
  EXPECT_EQ(texts[ids[0]].tokens.size(), 2u);
  EXPECT_EQ(texts[ids[1]].end, End::cancelled);
  EXPECT_TRUE(texts[ids[2]] == alone(good));
}

TEST(Generator, CancelledRequestsEndAndFreeTheirPages) {
  const auto shared = engine({.cache_tokens = 96});
  Generator generator(shared);
  const uint64_t running = generator.submit(request(40, 1, 50)),
                 waiting = generator.submit(request(60, 2, 50));
  generator.step();
  EXPECT_EQ(generator.stats().running, 1);
  EXPECT_EQ(generator.stats().waiting, 1);
  generator.cancel(running);
  generator.cancel(waiting);
  generator.cancel(12345);
  EXPECT_FALSE(generator.idle());
  const auto texts = run(generator);
  EXPECT_EQ(texts.at(running).end, End::cancelled);
  EXPECT_EQ(texts.at(waiting).end, End::cancelled);
  EXPECT_EQ(shared->free_tokens(), 96);
  EXPECT_TRUE(generator.step().empty());
}

TEST(Generator, ItsSequencesEndWithIt) {
  const auto shared = engine({.cache_tokens = 96});
  {
    Generator generator(shared);
    generator.submit(request(40, 1, 50));
    generator.step();
    EXPECT_EQ(shared->free_tokens(), 32);
  }
  EXPECT_EQ(shared->free_tokens(), 96);
}

TEST(Generator, GenerateStopsWhenTheCallbackSaysSo) {
  Request r = request(10, 8, 20);
  Engine e(decoder().model);
  const Tokens whole = generate(e, r);
  Tokens heard;
  const Tokens part = generate(e, r, [&](int32_t token) {
    heard.push_back(token);
    return heard.size() < 7;
  });
  EXPECT_EQ(part, Tokens(whole.begin(), whole.begin() + 7));
  EXPECT_EQ(heard, part);
  EXPECT_EQ(e.free_tokens(), e.options().cache_tokens);
}

TEST(Generator, BadRequestsAreNamed) {
  Generator generator(engine({.cache_tokens = 64}));
  const auto error = [&](const std::function<void(Request&)>& change) {
    Request r = request(5, 1);
    change(r);
    return message_of([&] { generator.submit(r); });
  };
  EXPECT_EQ(error([](Request& r) { r.prompt.clear(); }),
            "generate: prompt is empty, expected at least one token");
  EXPECT_EQ(error([](Request& r) { r.prompt[2] = 71; }),
            "generate: prompt holds 71, expected 0 <= id < V = 71");
  EXPECT_EQ(error([](Request& r) { r.prompt.resize(257); }),
            "generate: prompt has 257 tokens, expected at most the 256 of the model's context");
  EXPECT_EQ(error([](Request& r) { r.prompt.resize(64); }),
            "generate: prompt has 64 tokens, expected fewer than the 64 of the engine's cache "
            "(cache_tokens)");
  EXPECT_EQ(error([](Request& r) { r.stop_ids = {-1}; }),
            "generate: stop_ids holds -1, expected 0 <= id < V = 71");
  EXPECT_EQ(error([](Request& r) { r.max_new_tokens = -1; }),
            "generate: max_new_tokens is -1, expected at least 0");
  EXPECT_EQ(error([](Request& r) { r.temperature = NAN; }),
            "generate: temperature is nan, expected a finite number of at least 0");
  EXPECT_EQ(error([](Request& r) { r.top_k = -1; }), "generate: top_k is -1, expected at least 0");
  EXPECT_EQ(error([](Request& r) { r.top_p = 0; }), "generate: top_p is 0, expected 0 < p <= 1");
  EXPECT_EQ(error([](Request& r) { r.min_p = 2; }), "generate: min_p is 2, expected 0 <= p <= 1");
  EXPECT_EQ(error([](Request& r) { r.repetition_penalty = 0; }),
            "generate: repetition_penalty is 0, expected a finite number above 0");
  EXPECT_EQ(error([](Request& r) { r.guess_tokens = -1; }),
            "generate: guess_tokens is -1, expected at least 0");
  EXPECT_EQ(message_of([] { Generator(nullptr); }), "Generator: engine is missing");
  EXPECT_EQ(message_of([] { Generator(engine(), 0); }),
            "Generator: most_running is 0, expected at least 1");
  EXPECT_TRUE(generator.idle());
}

}  // namespace
}  // namespace fusedlm::test
