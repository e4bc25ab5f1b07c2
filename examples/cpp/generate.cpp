// Continues a text with a model from disk, and prints it as it is made.

#include <fusedlm/engine.h>
#include <fusedlm/generator.h>
#include <fusedlm/model.h>
#include <fusedlm/tokenizer.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <iostream>
#include <memory>
#include <random>
#include <string>

#include "arguments.h"

namespace {

constexpr const char* kUsage =
    "usage: generate MODEL [PROMPT] [options]\n"
    "\n"
    "  MODEL    a folder with config.json, *.safetensors and tokenizer.json, or a .gguf file\n"
    "  PROMPT   the text to continue; read from stdin where it is left out\n"
    "\n"
    "  --temperature X      0 takes the likeliest token (0.8)\n"
    "  --top-p X            draw from the likeliest tokens that make up this share (0.95)\n"
    "  --seed N             for the same text again (random)\n"
    "  --max-new-tokens N   most tokens to add (200)\n"
    "  --threads N          CPU threads (all cores)\n";

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string read_prompt(const Arguments& arguments) {
  if (arguments.positional().size() == 2) return arguments.positional()[1];
  return {std::istreambuf_iterator<char>(std::cin), {}};
}

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

void run(const Arguments& arguments) {
  using namespace fusedlm;
  if (arguments.has("threads")) set_num_threads(arguments.get("threads", 1));
  const std::string& path = arguments.positional()[0];
  const auto tokenizer = Tokenizer::load(path);
  const auto engine = std::make_shared<Engine>(Model::load(path));
  Generator generator(engine);

  const std::string prompt = read_prompt(arguments);
  Request request;
  request.prompt = tokenizer->encode(prompt);
  if (const auto bos = tokenizer->bos_id()) request.prompt.insert(request.prompt.begin(), *bos);
  request.max_new_tokens = arguments.get<index_t>("max-new-tokens", 200);
  request.temperature = arguments.get("temperature", 0.8);
  request.top_p = arguments.get("top-p", 0.95);
  request.seed = arguments.get<uint64_t>("seed", std::random_device{}());
  const size_t prompt_tokens = request.prompt.size();
  TextStream text(tokenizer);
  text.add(request.prompt);  // so that the new text begins behind it
  generator.submit(std::move(request));

  print(prompt);
  size_t tokens = 0;
  double first = 0;
  const auto start = Clock::now();
  while (!generator.idle()) {
    for (const Event& event : generator.step()) {
      print(text.add(event.tokens));
      if (tokens == 0) first = seconds_since(start);
      tokens += event.tokens.size();
    }
  }
  print(text.finish());
  const double rest = seconds_since(start) - first;
  print("\n");
  std::fprintf(stderr, "prompt: %zu tokens in %.3f s; text: %zu tokens", prompt_tokens, first,
               tokens);
  if (tokens > 1) std::fprintf(stderr, ", %.1f a second", static_cast<double>(tokens - 1) / rest);
  std::fprintf(stderr, "\n");
}

}  // namespace

int main(int argc, char** argv) {
  return run_main(argc, argv, {"temperature", "top-p", "seed", "max-new-tokens", "threads"}, kUsage,
                  [](const Arguments& arguments) {
                    const size_t given = arguments.positional().size();
                    if (given < 1 || given > 2)
                      throw UsageError("expected a model and at most one prompt");
                    run(arguments);
                  });
}
