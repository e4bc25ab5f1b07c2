// The tokenizer that a GGUF file carries in its metadata.

#include <algorithm>

#include "engine/gguf.h"
#include "engine/tokenizer_state.h"
#include "fusedlm/errors.h"

namespace fusedlm {
namespace {

/// tokenizer.ggml.token_type
enum class TokenType : index_t { normal = 1, unknown, control, user_defined, unused, byte };

/// Whether words of the vocabulary are taken whole, and a text begins with bos: what llama.cpp knows of these
/// pre-tokenizers, and a file need not say.
bool whole_words(const Tokenizer::State& state) {
  if (state.steps.empty()) return false;
  const SplitStep& last = state.steps.back();
  return last.kind == SplitStep::Kind::tekken || last.digits == 3;
}

void read_pre_tokenizer(const GgufFile& file, Tokenizer::State& state) {
  using Kind = SplitStep::Kind;
  // Files from before this field was written say nothing, or "default": those are GPT-2's words.
  const std::string_view pre = file.string("tokenizer.ggml.pre", "default");
  if (pre == "default" || pre == "gpt-2") {
    state.steps = {{Kind::gpt2}};
  } else if (pre == "smollm" || pre == "starcoder" || pre == "command-r" || pre == "refact") {
    state.steps = {{Kind::digits}, {Kind::gpt2}};
  } else if (pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3") {
    state.steps = {{Kind::llama3, 3}};
  } else if (pre == "qwen2") {
    state.steps = {{Kind::llama3, 1}};
    state.nfc = true;
  } else if (pre == "tekken") {
    state.steps = {{Kind::tekken}};
  } else {
    throw Unsupported(
        file.path() + ": tokenizer.ggml.pre is \"" + std::string(pre) +
        "\", expected gpt-2, smollm, starcoder, command-r, refact, llama-bpe, qwen2 or "
        "tekken");
  }
  if (file.boolean("tokenizer.ggml.add_space_prefix", false))
    state.steps.insert(state.steps.end() - 1, {Kind::prefix});
}

std::vector<TokenType> types_of(const GgufFile& file, size_t tokens) {
  if (!file.has("tokenizer.ggml.token_type")) return {tokens, TokenType::normal};
  const auto numbers = file.integers("tokenizer.ggml.token_type");
  if (numbers.size() != tokens) {
    file.fail("tokenizer.ggml.token_type has " + std::to_string(numbers.size()) +
              " entries, expected " + std::to_string(tokens) + " as there are tokens");
  }
  std::vector<TokenType> types;
  for (index_t number : numbers) types.push_back(static_cast<TokenType>(number));
  return types;
}

void read_tokens(const GgufFile& file, TokenizerBuilder& builder) {
  const auto tokens = file.strings("tokenizer.ggml.tokens");
  const auto types = types_of(file, tokens.size());
  const bool pieces = builder.state().kind == Tokenizer::State::Kind::sentence_piece;
  for (size_t i = 0; i < tokens.size(); ++i)
    builder.token(std::string(tokens[i]), static_cast<int64_t>(i), tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    const TokenType type = types[i];
    if (type != TokenType::control && type != TokenType::user_defined &&
        !(pieces && type == TokenType::unknown))
      continue;
    AddedToken token{std::string(tokens[i]), static_cast<int32_t>(i)};
    token.special = type == TokenType::control;
    builder.added(std::move(token), tokens.size());
  }
}

SentencePiece sentence_piece_of(const GgufFile& file) {
  SentencePiece pieces;
  pieces.mark_spaces = pieces.fuse_unknown = pieces.byte_fallback = pieces.bytes_in_text = true;
  pieces.prepend = pieces.strip_space = file.boolean("tokenizer.ggml.add_space_prefix", true);
  return pieces;
}

/// SentencePiece's unknown token and scores.
void read_pieces(const GgufFile& file, TokenizerBuilder& builder) {
  const auto tokens = file.strings("tokenizer.ggml.tokens");
  const auto types = types_of(file, tokens.size());
  const auto scores = file.numbers("tokenizer.ggml.scores");
  if (scores.size() != tokens.size()) {
    file.fail("tokenizer.ggml.scores has " + std::to_string(scores.size()) + " entries, expected " +
              std::to_string(tokens.size()) + " as there are tokens");
  }
  std::vector<bool> mergeable;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (types[i] == TokenType::byte && !byte_of_token(tokens[i])) {
      file.fail("tokenizer.ggml.tokens: \"" + std::string(tokens[i]) +
                "\" is of the type of bytes, expected <0x00> to <0xFF>");
    }
    mergeable.push_back(types[i] != TokenType::unknown && types[i] != TokenType::control &&
                        types[i] != TokenType::byte);
  }
  builder.merge_by_scores(tokens, scores, mergeable);
  const auto unknown = std::find(types.begin(), types.end(), TokenType::unknown);
  if (unknown != types.end())
    builder.state().unknown = static_cast<int32_t>(unknown - types.begin());
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
  TokenizerBuilder builder(path);
  Tokenizer::State& state = builder.state();
  const std::string_view model = file.string("tokenizer.ggml.model");
  const bool pieces = model == "llama";
  if (pieces) {
    state.kind = Tokenizer::State::Kind::sentence_piece;
    state.sentence_piece = sentence_piece_of(file);
    read_tokens(file, builder);
    read_pieces(file, builder);
  } else if (model == "gpt2") {
    read_pre_tokenizer(file, state);
    read_tokens(file, builder);
    read_merges(file, builder);
  } else {
    throw Unsupported(path + ": tokenizer.ggml.model is \"" + std::string(model) +
                      "\", expected gpt2 (byte-level BPE) or llama (SentencePiece's BPE)");
  }
  if (file.boolean("tokenizer.ggml.add_bos_token", pieces || whole_words(state)) &&
      file.has("tokenizer.ggml.bos_token_id")) {
    state.bos = static_cast<int32_t>(file.integer("tokenizer.ggml.bos_token_id", 0,
                                                  static_cast<index_t>(state.bytes.size()) - 1));
  }
  builder.finish(whole_words(state));
  return builder.take();
}

}  // namespace fusedlm
