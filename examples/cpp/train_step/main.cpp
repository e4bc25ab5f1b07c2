// Trains a small GPT on bytes with the raw kernels: no framework, no autograd, every call in sight.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <numbers>

#include "../arguments.h"
#include "adamw.h"
#include "gpt.h"
#include "text.h"

namespace {

constexpr const char* kUsage =
    "usage: train_step [TEXT] [options]\n"
    "\n"
    "  TEXT         a file to learn from; without it, a text that is built in\n"
    "\n"
    "  --steps N    optimizer steps (200)\n"
    "  --batch N    pieces of text in a step (8)\n"
    "  --context N  bytes of a piece (128)\n"
    "  --layers N   (2)\n"
    "  --width N    a multiple of 64 (128)\n"
    "  --lr X       highest learning rate (0.003)\n"
    "  --seed N     of weights and pieces (1)\n"
    "  --threads N  CPU threads (all cores)\n";

struct Settings {
  explicit Settings(const Arguments& given)
      : steps(given.get<index_t>("steps", 200)),
        batch(given.get<index_t>("batch", 8)),
        context(given.get<index_t>("context", 128)),
        lr(given.get("lr", 3e-3)),
        seed(given.get<uint64_t>("seed", 1)) {
    shape.layers = given.get("layers", shape.layers);
    shape.width = given.get("width", shape.width);
    if (steps < 1 || batch < 1 || context < 1 || shape.layers < 1) {
      throw UsageError("--steps, --batch, --context and --layers must be at least 1");
    }
    if (shape.width < 64 || shape.width % 64 != 0) {
      throw UsageError("--width must be a multiple of 64");
    }
    shape.heads = shape.width / 32;
    shape.ffn_width = shape.width * 5 / 2;
  }

  Shape shape;
  index_t steps, batch, context;
  double lr;
  uint64_t seed;
};

/// Linear warm-up, then half a cosine down to a tenth.
double learning_rate(const Settings& settings, index_t step) {
  const index_t warmup = std::min<index_t>(20, settings.steps / 10 + 1);
  if (step < warmup)
    return settings.lr * static_cast<double>(step + 1) / static_cast<double>(warmup);
  const double done =
      static_cast<double>(step - warmup) / static_cast<double>(settings.steps - warmup);
  return settings.lr * (0.1 + 0.45 * (1 + std::cos(std::numbers::pi * done)));
}

void train(Gpt& model, const std::string& text, const Settings& settings) {
  AdamW optimizer(model.parameters(), 0.1, 1.0);
  Activations kept(settings.shape, model.dtype(), settings.batch, settings.context);
  Gradients grads(settings.shape, model.dtype(), settings.batch, settings.context);
  Batch batch(settings.batch, settings.context);
  std::mt19937_64 random(settings.seed);
  const index_t every = std::max<index_t>(1, settings.steps / 10);
  using Clock = std::chrono::steady_clock;
  auto since = Clock::now();
  index_t tokens = 0;
  for (index_t step = 0; step < settings.steps; ++step) {
    batch.draw(text, random);
    const float loss = model.loss_and_gradients(batch.tokens, batch.targets, kept, grads);
    const double norm = optimizer.step(learning_rate(settings, step));
    tokens += settings.batch * settings.context;
    if (step % every != 0 && step + 1 != settings.steps) continue;
    const double seconds = std::chrono::duration<double>(Clock::now() - since).count();
    std::printf("step %5lld  loss %.4f  gradient norm %7.3f  %8.0f tokens/s\n",
                static_cast<long long>(step + 1), loss, norm,
                static_cast<double>(tokens) / seconds);
    std::fflush(stdout);
    since = Clock::now();
    tokens = 0;
  }
}

void print_sample(const Gpt& model, const std::string& text, const Settings& settings) {
  constexpr int kLength = 200;
  std::vector<int64_t> tokens;
  for (const char byte : text.substr(0, std::min<size_t>(20, settings.context))) {
    tokens.push_back(static_cast<unsigned char>(byte));
  }
  std::printf("\n%s", text.substr(0, tokens.size()).c_str());
  for (int i = 0; i < kLength; ++i) {
    const size_t seen = std::min<size_t>(tokens.size(), settings.context);
    tokens.push_back(model.next(std::span(tokens).last(seen), 0.5, settings.seed + i));
    std::putchar(static_cast<int>(tokens.back()));
  }
  std::printf("\n");
}

void run(const Arguments& arguments) {
  if (arguments.has("threads")) fusedlm::set_num_threads(arguments.get("threads", 1));
  const Settings settings(arguments);
  const size_t least = settings.context + 1;
  std::string text = kBuiltInText;
  if (!arguments.positional().empty()) text = read_text(arguments.positional()[0], least);
  if (text.size() < least) throw UsageError("--context is longer than the built-in text");

  Gpt model(settings.shape, settings.context, settings.seed);
  std::printf("%lld parameters, %zu bytes of text, %s, %s, %d threads\n",
              static_cast<long long>(model.size()), text.size(), fusedlm::name_of(model.dtype()),
              fusedlm::name_of(fusedlm::current_isa()), fusedlm::num_threads());
  train(model, text, settings);
  print_sample(model, text, settings);
}

}  // namespace

int main(int argc, char** argv) {
  return run_main(argc, argv,
                  {"steps", "batch", "context", "layers", "width", "lr", "seed", "threads"}, kUsage,
                  [](const Arguments& arguments) {
                    if (arguments.positional().size() > 1) throw UsageError("expected one text");
                    run(arguments);
                  });
}
