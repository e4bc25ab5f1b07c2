// The tokenizer that a GGUF file carries in its metadata.

#include "engine/gguf.h"
#include "engine/tokenizer_state.h"
#include "fusedlm/errors.h"

namespace fusedlm {
namespace {

/// tokenizer.ggml.token_type
enum class TokenType : index_t { normal = 1, unknown, control, user_defined, unused, byte };

void read_pre_tokenizer(const GgufFile& file, Tokenizer::State& state) {
  using Kind = SplitStep::Kind;
  // Files from before this field was written say nothing, or "default": those are GPT-2's words.
  const std::string_view pre = file.string("tokenizer.ggml.pre", "default");
  if (pre == "default" || pre == "gpt-2") {
    state.steps = {{Kind::gpt2}};
  } else if (pre == "smollm") {
    state.steps = {{Kind::digits}, {Kind::gpt2}};
  } else if (pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3") {
    state.steps = {{Kind::llama3, 3}};
  } else if (pre == "qwen2") {
    state.steps = {{Kind::llama3, 1}};
    state.nfc = true;
  } else {
    throw Unsupported(file.path() + ": tokenizer.ggml.pre is \"" + std::string(pre) +
                      "\", expected gpt-2, smollm, llama-bpe or qwen2");
  }
  if (file.boolean("tokenizer.ggml.add_space_prefix", false))
    state.steps.insert(state.steps.end() - 1, {Kind::prefix});
}

void read_tokens(const GgufFile& file, TokenizerBuilder& builder) {
  const auto tokens = file.strings("tokenizer.ggml.tokens");
  const auto types = file.has("tokenizer.ggml.token_type")
                         ? file.integers("tokenizer.ggml.token_type")
                         : std::vector<index_t>(tokens.size(), index_t{1});
  if (types.size() != tokens.size()) {
    builder.fail("tokenizer.ggml.token_type has " + std::to_string(types.size()) +
                 " entries, expected " + std::to_string(tokens.size()) + " as there are tokens");
  }
  for (size_t i = 0; i < tokens.size(); ++i)
    builder.token(std::string(tokens[i]), static_cast<int64_t>(i), tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto type = static_cast<TokenType>(types[i]);
    if (type != TokenType::control && type != TokenType::user_defined) continue;
    AddedToken token{std::string(tokens[i]), static_cast<int32_t>(i)};
    token.special = type == TokenType::control;
    builder.added(std::move(token), tokens.size());
  }
}

void read_merges(const GgufFile& file, TokenizerBuilder& builder) {
  const auto merges = file.strings("tokenizer.ggml.merges");
  builder.reserve_merges(merges.size());
  for (std::string_view merge : merges) {
    // A token may begin with a blank in old files, so the blank between is looked for behind it.
    const size_t blank = merge.find(' ', 1);
    if (blank == std::string_view::npos)
      builder.fail("tokenizer.ggml.merges holds \"" + std::string(merge) +
                   "\", expected two tokens");
    builder.merge(std::string(merge.substr(0, blank)), std::string(merge.substr(blank + 1)));
  }
}

}  // namespace

std::unique_ptr<const Tokenizer::State> read_tokenizer_gguf(const std::string& path) {
  const GgufFile file(MappedFile::open(path));
  const std::string_view model = file.string("tokenizer.ggml.model");
  if (model != "gpt2") {
    throw Unsupported(path + ": tokenizer.ggml.model is \"" + std::string(model) +
                      "\", expected gpt2 (byte-level BPE)");
  }
  TokenizerBuilder builder(path);
  Tokenizer::State& state = builder.state();
  read_pre_tokenizer(file, state);
  read_tokens(file, builder);
  read_merges(file, builder);
  const bool llama3 = state.steps.back().digits == 3;
  if (file.boolean("tokenizer.ggml.add_bos_token", llama3) &&
      file.has("tokenizer.ggml.bos_token_id")) {
    state.bos = static_cast<int32_t>(file.integer("tokenizer.ggml.bos_token_id", 0,
                                                  static_cast<index_t>(state.bytes.size()) - 1));
  }
  builder.finish(llama3);  // Llama 3 takes words whole, which GGUF does not say
  return builder.take();
}

}  // namespace fusedlm
