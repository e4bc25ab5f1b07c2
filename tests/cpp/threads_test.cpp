// What several threads may do at once: run engines of one model, and hand one engine or generator round.
// tools/sanitize thread finds a race in any of it.

#include "threads.h"

#include <map>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "fusedlm/generator.h"
#include "small_decoder.h"

namespace fusedlm::test {
namespace {

using Tokens = std::vector<int32_t>;

const SmallDecoder& decoder() {
  static const auto* d = new SmallDecoder("llama", llama_config(), Extras{.tied = false});
  return *d;
}

Tokens tokens_of(int thread) {
  return random_tokens(60 + 20 * thread, decoder().config.vocab_size,
                       static_cast<uint64_t>(thread));
}

/// Logits of a sequence of its own: many tokens at once, then a few, then one by one. between() is called
/// after each of these calls.
template <class Between>
std::vector<float> logits_of(Engine& engine, const Tokens& tokens, Between&& between) {
  const index_t V = decoder().config.vocab_size, T = static_cast<index_t>(tokens.size());
  std::vector<float> logits(static_cast<size_t>(T * V), NAN);
  const auto sequence = engine.open();
  for (index_t at = 0, count = T - 12; at < T; at += count, count = at < T - 4 ? 8 : 1) {
    const auto part = std::span(tokens).subspan(at, count);
    const Engine::Append append{sequence, part, Engine::Logits::all};
    engine.forward({&append, 1}, std::span(logits).subspan(at * V, count * V));
    between();
  }
  engine.close(sequence);
  return logits;
}

std::vector<float> logits_alone(int thread, DType dtype) {
  Engine engine(decoder().model, {.dtype = dtype});
  return logits_of(engine, tokens_of(thread), [] {});
}

TEST(SeveralThreads, WithAnEngineEachOfOneModelGetTheBitsOfOneAlone) {
  for (const DType dtype : kFloatTypes) {
    std::vector<float> results[2][4];
    in_threads(2, [&](int i) {
      Engine engine(decoder().model, {.dtype = dtype});
      for (auto& result : results[i]) result = logits_of(engine, tokens_of(i), [] {});
    });
    for (int i = 0; i < 2; ++i) {
      const auto alone = logits_alone(i, dtype);
      for (const auto& result : results[i]) EXPECT_EQ(result, alone) << "thread " << i;
    }
  }
}

TEST(SeveralThreads, HandAnEngineRoundUnderALock) {
  Engine engine(decoder().model);
  std::mutex mutex;
  std::vector<float> results[3];
  in_threads(3, [&](int i) {
    std::unique_lock lock(mutex);
    results[i] = logits_of(engine, tokens_of(i), [&] {  // the next call may be another thread's
      lock.unlock();
      std::this_thread::yield();
      lock.lock();
    });
  });
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(results[i], logits_alone(i, DType::bfloat16)) << "thread " << i;
  }
}

Request request_of(int thread) {
  Request r;
  r.prompt = tokens_of(thread);
  r.max_new_tokens = 25;
  r.seed = static_cast<uint64_t>(thread);
  return r;
}

Tokens text_alone(const Request& request) {
  Engine engine(decoder().model);
  return generate(engine, request);
}

TEST(SeveralThreads, HandAGeneratorRoundUnderALock) {
  Generator generator(std::make_shared<Engine>(decoder().model));
  std::mutex mutex;
  std::map<uint64_t, Tokens> texts;
  uint64_t ids[3];
  in_threads(3, [&](int i) {
    std::unique_lock lock(mutex);
    ids[i] = generator.submit(request_of(i));
    while (!generator.idle()) {
      for (const Event& event : generator.step()) {
        Tokens& text = texts[event.request];
        text.insert(text.end(), event.tokens.begin(), event.tokens.end());
      }
      lock.unlock();
      std::this_thread::yield();
      lock.lock();
    }
  });
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(texts[ids[i]], text_alone(request_of(i))) << "request " << i;
  }
}

/// Tokens whose remainder by 3 is `rest`; it may be called on the thread that asks for this alone.
auto allow_of_rest(int rest) {
  return [rest, caller = std::this_thread::get_id()](std::span<const int32_t>,
                                                     std::span<uint32_t> allowed) {
    if (std::this_thread::get_id() != caller) throw std::logic_error("called on another thread");
    for (int v = rest; v < decoder().config.vocab_size; v += 3) {
      allowed[static_cast<size_t>(v / 32)] |= 1u << (v % 32);
    }
    return true;
  };
}

TEST(SeveralThreads, WithAGeneratorEachDrawWhatTheirOwnMasksAllow) {
  const auto request = [](int i) {
    Request r = request_of(i);
    r.allow = allow_of_rest(i);
    return r;
  };
  Tokens texts[2];
  in_threads(2, [&](int i) { texts[i] = text_alone(request(i)); });
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(texts[i].size(), 25u);
    for (const int32_t token : texts[i]) EXPECT_EQ(token % 3, i);
    EXPECT_EQ(texts[i], text_alone(request(i))) << "thread " << i;
  }
}

}  // namespace
}  // namespace fusedlm::test
