// tokenizer.json of Hugging Face's `tokenizers`: byte-level BPE, SentencePiece's BPE, and fusedlm's own
// characters. What is there beyond that is refused by name. Truncation and padding are about batches, and left out.

#include <algorithm>
#include <array>

#include "engine/json.h"
#include "engine/mapped_file.h"
#include "engine/tokenizer_state.h"
#include "fusedlm/errors.h"

namespace fusedlm {
namespace {

using json::Fields;
using Kind = Tokenizer::State::Kind;

// How far ids may go beyond the number of tokens: some vocabularies have gaps.
constexpr size_t kMostGaps = 1 << 16;

class Reader {
 public:
  Reader(const Fields& file, const std::string& path) : file_(file), builder_(path) {}

  std::unique_ptr<const Tokenizer::State> read() {
    read_normalizer();
    read_pre_tokenizer();
    read_kind();
    read_decoder();
    read_model();
    if (file_.find("added_tokens")) read_added_tokens();
    if (file_.find("post_processor")) read_post_processor(file_.object("post_processor"));
    builder_.finish(whole_words_);
    return builder_.take();
  }

 private:
  [[noreturn]] static void refuse(const Fields& fields, const std::string& what) {
    throw Unsupported(fields.where() + ": " + what +
                      ", which is not of the kinds of BPE that fusedlm reads");
  }

  /// An object, or those of a "Sequence" of them, by turns.
  template <class Read>
  void each(const char* name, const char* list, Read&& read) {
    if (!file_.find(name)) return;
    const Fields fields = file_.object(name);
    if (fields.string("type") != "Sequence") return read(fields);
    for (const json::Value& item : fields.array(list))
      read(Fields(item, fields.where() + ": " + list));
  }

  void read_normalizer() {
    each("normalizer", "normalizers", [&](const Fields& normalizer) {
      const std::string& type = normalizer.string("type");
      if (type == "NFC") {
        builder_.state().nfc = true;
      } else if (type == "Prepend") {
        const std::string& put = normalizer.string("prepend");
        if (put != kSpaceMark) refuse(normalizer, "a Prepend of \"" + put + "\"");
        pieces().prepend = true;
      } else if (type == "Replace") {
        check_replace(normalizer, " ", kSpaceMark);
        pieces().mark_spaces = true;
      } else {
        refuse(normalizer, "a normalizer of type " + type);
      }
    });
    if (pieces().prepend && !pieces().mark_spaces)
      refuse(file_, "a normalizer that prepends a mark and leaves spaces");
  }

  SentencePiece& pieces() { return builder_.state().sentence_piece; }

  /// Of normalizers and decoders: one that writes `what` as `by`.
  static void check_replace(const Fields& step, std::string_view what, std::string_view by) {
    const Fields pattern = step.object("pattern");
    if (!pattern.find("String")) refuse(step, "a Replace of a regular expression");
    const std::string &from = pattern.string("String"), &to = step.string("content");
    if (from != what || to != by) refuse(step, "a Replace of \"" + from + "\" by \"" + to + "\"");
  }

  void read_pre_tokenizer() {
    each("pre_tokenizer", "pretokenizers", [&](const Fields& step) {
      const std::string& type = step.string("type");
      if (type == "ByteLevel") {
        byte_level_ = true;
        if (step.boolean("add_prefix_space", true)) add({SplitStep::Kind::prefix});
        if (step.boolean("use_regex", true)) add({SplitStep::Kind::gpt2});
      } else if (byte_level_) {
        refuse(step, "a pre-tokenizer behind ByteLevel");
      } else if (type == "Digits") {
        if (!step.boolean("individual_digits", false)) refuse(step, "Digits that stay together");
        add({SplitStep::Kind::digits});
      } else if (type == "Metaspace") {
        read_metaspace(step);
      } else if (type == "Split") {
        read_split(step);
      } else {
        refuse(step, "a pre-tokenizer of type " + type);
      }
    });
  }

  void read_metaspace(const Fields& step) {
    if (pieces().metaspace) refuse(step, "a second Metaspace");
    const std::string& mark = step.string("replacement");
    if (mark != kSpaceMark) refuse(step, "a Metaspace of \"" + mark + "\"");
    const std::string scheme = step.string("prepend_scheme", "always");
    pieces().metaspace = true;
    pieces().split = step.boolean("split", true);
    if (scheme == "always" || scheme == "first") {
      using Prefix = SentencePiece::Prefix;
      pieces().prefix = scheme == "first" ? Prefix::first : Prefix::always;
      if (!step.boolean("add_prefix_space", true))
        step.fail("add_prefix_space is false, expected true as prepend_scheme is " + scheme);
    } else if (scheme != "never") {
      step.fail("prepend_scheme is \"" + scheme + "\", expected first, always or never");
    }
  }

  void add(SplitStep step) { builder_.state().steps.push_back(step); }

  void read_split(const Fields& step) {
    const std::string& behavior = step.string("behavior");
    const bool inverted = step.boolean("invert", false);
    // The patterns match every character, so that removing what lies between removes nothing.
    if (!(behavior == "Isolated" && !inverted) && !(behavior == "Removed" && inverted))
      refuse(step, "a Split that is " + behavior + (inverted ? ", inverted" : ""));
    const Fields pattern = step.object("pattern");
    if (!pattern.find("Regex")) refuse(step, "a Split by a string");
    const std::string& regex = pattern.string("Regex");
    if (regex == kGpt2Pattern) {
      add({SplitStep::Kind::gpt2});
    } else if (regex == kLlama3Pattern) {
      add({SplitStep::Kind::llama3, 3});
    } else if (regex == kQwen2Pattern) {
      add({SplitStep::Kind::llama3, 1});
    } else if (regex == kTekkenPattern) {
      add({SplitStep::Kind::tekken});
    } else if (regex == kCharacterPattern) {
      add({SplitStep::Kind::characters});
    } else {
      refuse(step, "the pattern " + regex);
    }
  }

  /// By the model's type and by how spaces and bytes are written.
  void read_kind() {
    const Fields model = file_.object("model");
    const std::string type = model.string("type", "BPE");
    const bool marks = pieces().mark_spaces || pieces().metaspace;
    Tokenizer::State& state = builder_.state();
    bool fits = false;
    if (type == "WordLevel") {
      state.kind = Kind::characters;
      fits = !byte_level_ && !marks;
    } else if (type != "BPE") {
      refuse(model, "a model of type " + type);
    } else if (marks) {
      state.kind = Kind::sentence_piece;
      fits = !byte_level_ && state.steps.empty();
    } else {
      fits = byte_level_;
    }
    if (!fits) refuse(file_, "a pre-tokenizer that does not go with " + type);
  }

  void read_model() {
    const Fields model = file_.object("model");
    refuse_options(model);
    whole_words_ = model.boolean("ignore_merges", false);
    pieces().fuse_unknown = model.boolean("fuse_unk", false);
    pieces().byte_fallback = model.boolean("byte_fallback", false);
    if (pieces().byte_fallback && !pieces().bytes_in_text)
      refuse(model, "byte_fallback without a decoder that knows of it");
    read_vocab(model);
    if (builder_.state().kind != Kind::characters) read_merges(model);
    if (model.find("unk_token")) {
      const auto& ids = builder_.state().ids;
      const auto unknown = ids.find(model.string("unk_token"));
      if (unknown == ids.end()) model.fail("unk_token", "a token of the vocabulary");
      builder_.state().unknown = unknown->second;
    }
  }

  static void refuse_options(const Fields& model) {
    for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (!model.string(name, "").empty()) refuse(model, name);
    }
    if (model.find("dropout") && model.positive("dropout", 0) > 0) refuse(model, "dropout");
  }

  void read_vocab(const Fields& model) {
    const auto* vocab = model.get("vocab").as<json::Object>();
    if (!vocab) model.fail("vocab", "an object");
    const json::Array* added = file_.find("added_tokens") ? &file_.array("added_tokens") : nullptr;
    limit_ = vocab->size() + (added ? added->size() : 0) + kMostGaps;
    for (const auto& [text, id] : *vocab) {
      const int64_t* number = id.as<int64_t>();
      if (!number) model.fail("vocab: \"" + text + "\" has the id " + json::describe(id));
      builder_.token(text, *number, limit_);
    }
  }

  void read_merges(const Fields& model) {
    const json::Array& merges = model.array("merges");
    builder_.reserve_merges(merges.size());
    for (const json::Value& merge : merges) {
      if (const std::string* line = merge.as<std::string>()) {
        const size_t blank = line->find(' ');
        if (blank == std::string::npos || line->find(' ', blank + 1) != std::string::npos)
          model.fail("merges holds \"" + *line + "\", expected two tokens");
        builder_.merge(line->substr(0, blank), line->substr(blank + 1));
        continue;
      }
      const json::Array* pair = merge.as<json::Array>();
      const bool two =
          pair && pair->size() == 2 && (*pair)[0].as<std::string>() && (*pair)[1].as<std::string>();
      if (!two) model.fail("merges holds " + json::describe(merge) + ", expected two tokens");
      builder_.merge(*(*pair)[0].as<std::string>(), *(*pair)[1].as<std::string>());
    }
  }

  void read_added_tokens() {
    for (const json::Value& value : file_.array("added_tokens")) {
      const Fields token(value, file_.where() + ": added_tokens");
      if (token.boolean("single_word", false)) refuse(token, "single_word");
      const bool special = token.boolean("special", false);
      AddedToken added{token.string("content"),
                       static_cast<int32_t>(token.integer("id", 0, INT32_MAX)),
                       special,
                       token.boolean("lstrip", false),
                       token.boolean("rstrip", false),
                       token.boolean("normalized", !special)};
      builder_.added(std::move(added), limit_);
    }
  }

  /// The token that a template puts before a text.
  void read_post_processor(const Fields& processor) {
    const std::string& type = processor.string("type");
    if (type == "Sequence") {
      for (const json::Value& inner : processor.array("processors"))
        read_post_processor(Fields(inner, processor.where() + ": processors"));
    } else if (type == "TemplateProcessing") {
      const json::Array& single = processor.array("single");
      const json::Value* first = single.empty() ? nullptr : single.front().find("SpecialToken");
      if (!first) return;
      const std::string& name = Fields(*first, processor.where()).string("id");
      const auto& ids = builder_.state().ids;
      const auto found = ids.find(name);
      if (found == ids.end()) processor.fail("single begins with \"" + name + "\", no token");
      builder_.state().bos = found->second;
    } else if (type != "ByteLevel") {
      refuse(processor, "a post-processor of type " + type);
    }
  }

  void read_decoder() {
    const Kind kind = builder_.state().kind;
    if (kind == Kind::sentence_piece) return read_decoders();
    const char* expected = kind == Kind::byte_level ? "ByteLevel" : "Fuse";
    const std::string type = file_.object("decoder").string("type");
    if (type != expected) refuse(file_, "a decoder of type " + type);
  }

  /// Marks become spaces, "<0x0A>" a byte, and a space at the beginning may go: in this order alone.
  void read_decoders() {
    static constexpr std::array<std::string_view, 4> kOrder = {"Replace", "ByteFallback", "Fuse",
                                                               "Strip"};
    size_t next = 0;
    std::array<bool, 4> there{};
    each("decoder", "decoders", [&](const Fields& decoder) {
      const std::string& type = decoder.string("type");
      const auto* found = std::find(kOrder.begin() + next, kOrder.end(), type);
      const auto place = static_cast<size_t>(found - kOrder.begin());
      if (place == kOrder.size()) refuse(decoder, "a decoder of type " + type + " at this place");
      there[place] = true;
      next = place + 1;
      if (type == "Replace") check_replace(decoder, kSpaceMark, " ");
      if (type == "Strip") read_strip(decoder);
    });
    if (!there[0]) refuse(file_, "a decoder that leaves U+2581 as it is");
    if (there[3] && !there[2]) refuse(file_, "a decoder that strips each token");
    pieces().bytes_in_text = there[1];
  }

  void read_strip(const Fields& decoder) {
    const index_t start = decoder.integer("start", 0, INT32_MAX),
                  stop = decoder.integer("stop", 0, INT32_MAX);
    if (decoder.string("content") != " " || start > 1 || stop > 0)
      refuse(decoder, "a Strip of more than one space at the beginning");
    pieces().strip_space = start == 1;
  }

  const Fields& file_;
  TokenizerBuilder builder_;
  size_t limit_ = 0;
  bool byte_level_ = false, whole_words_ = false;
};

}  // namespace

std::unique_ptr<const Tokenizer::State> read_tokenizer_json(const std::string& path) {
  const auto file = MappedFile::open(path);
  const json::Value value = json::parse(file->text(), path);
  const Fields fields(value, path);
  return Reader(fields, path).read();
}

}  // namespace fusedlm
