// Small valid model files, damaged at random by a fixed seed: each must load, or be refused with an exception
// of its own kind, without reading outside the file and without a large allocation. Built with
// -fsanitize=address,undefined the first of these is checked byte by byte.

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <functional>
#include <random>

#include "files.h"
#include "fusedlm/model.h"
#include "fusedlm/tokenizer.h"

namespace fusedlm::test {
namespace {

// Of each kind of file; all together about 50,000, in some seconds.
constexpr int kCases = 7000;

/// No more address space than this beyond what is in use: the files have some KiB, and a length in them that
/// was believed would ask for more.
class MemoryLimit {
 public:
  MemoryLimit() {
#ifndef __SANITIZE_ADDRESS__  // whose shadow takes terabytes of it
    ::getrlimit(RLIMIT_AS, &before_);
    std::ifstream statm("/proc/self/statm");
    rlim_t pages = 0;
    if (!(statm >> pages)) return;
    rlimit limit = before_;
    limit.rlim_cur = pages * 4096 + (rlim_t{256} << 20);
    ::setrlimit(RLIMIT_AS, &limit);
#endif
  }
  ~MemoryLimit() {
#ifndef __SANITIZE_ADDRESS__
    ::setrlimit(RLIMIT_AS, &before_);
#endif
  }

 private:
  rlimit before_{};
};

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : engine_(seed) {}

  std::string damage(std::string file) {
    const size_t times = 1 + below(4);
    for (size_t i = 0; i < times && !file.empty(); ++i) once(file);
    return file;
  }

 private:
  size_t below(size_t n) { return n ? engine_() % n : 0; }

  void once(std::string& file) {
    // Heads are where the structure is, so every second change falls there.
    const size_t at = below(2) ? below(file.size()) : below(std::min<size_t>(file.size(), 400));
    const size_t length = std::min(1 + below(24), file.size() - at);
    switch (below(8)) {
      case 0:
        file[at] = static_cast<char>(file[at] ^ (1 << below(8)));
        break;
      case 1:
        file[at] = static_cast<char>(below(256));
        break;
      case 2:
        file.resize(at);
        break;
      case 3:
        file.erase(at, length);
        break;
      case 4:
        file.insert(below(file.size()), file.substr(at, length));
        break;
      case 5:
        overwrite_number(file, at);
        break;
      case 6:
        replace_digits(file, at);
        break;
      case 7:
        replace_word(file, at);
        break;
    }
  }

  void overwrite_number(std::string& file, size_t at) {
    const uint64_t values[] = {0,
                               1,
                               2,
                               0xff,
                               0x7fffffff,
                               0x80000000,
                               0xffffffff,
                               1u << 30,
                               uint64_t{1} << 40,
                               ~uint64_t{0} >> 1,
                               ~uint64_t{0},
                               file.size(),
                               uint64_t{1} << 62};
    const uint64_t value = values[below(std::size(values))];
    const size_t bytes = std::min<size_t>(size_t{1} << below(4), file.size() - at);
    std::memcpy(file.data() + at, &value, bytes);
  }

  void replace_digits(std::string& file, size_t at) {
    const size_t begin = file.find_first_of("0123456789", at);
    if (begin == std::string::npos) return;
    const size_t end = std::min(file.find_first_not_of("0123456789", begin), file.size());
    const char* values[] = {"0",
                            "1",
                            "-1",
                            "7",
                            "65536",
                            "2147483648",
                            "4294967295",
                            "1e9",
                            "1e400",
                            "00",
                            "9223372036854775807",
                            "18446744073709551616"};
    file.replace(begin, end - begin, values[below(std::size(values))]);
  }

  void replace_word(std::string& file, size_t at) {
    const char* words[] = {"null",        "true",     "{}",   "[]",     "\"\"",
                           "[[[[",        "}",        ",",    "\"a\":", "\\u0000",
                           "\"\\ud800\"", "\xff\xfe", "BF16", "F64",    "NaN"};
    const char* word = words[below(std::size(words))];
    file.replace(at, std::min(std::strlen(word), file.size() - at), word);
  }

  std::mt19937_64 engine_;
};

/// Damages `file` again and again; `use` loads it and looks at all that was loaded.
void expect_robust(const std::string& file, uint64_t seed,
                   const std::function<void(const std::string& damaged)>& use) {
  ASSERT_NO_THROW(use(file)) << "undamaged";
  const MemoryLimit limit;
  Mutator mutator(seed);
  int refused = 0;
  for (int i = 0; i < kCases; ++i) {
    const std::string damaged = mutator.damage(file);
    try {
      use(damaged);
    } catch (const CorruptFile&) {
      ++refused;
    } catch (const Unsupported&) {
      ++refused;
    } catch (const InvalidArgument&) {
      ++refused;
    } catch (const std::exception& error) {
      FAIL() << "case " << i << ": " << error.what();
    }
  }
  // Otherwise the damage does not reach what is checked.
  EXPECT_GT(refused, kCases / 3);
}

volatile unsigned char sink;

void read_all(const void* data, index_t bytes) {
  unsigned char sum = 0;
  for (index_t i = 0; i < bytes; ++i) sum ^= static_cast<const unsigned char*>(data)[i];
  sink = sum;
}
void read_all(const Weight& w) {
  if (w.defined()) read_all(w.data, w.rows * row_bytes(w.format, w.cols));
}
void read_all(const Model& model) {
  const DecoderConfig& c = model.config;
  for (const Weight* w : {&model.embedding, &model.position_embedding, &model.head}) read_all(*w);
  for (const LayerWeights& l : model.layers) {
    for (const Weight& w : l.qkv) read_all(w);
    for (const Weight* w : {&l.out, &l.gate, &l.up, &l.down}) read_all(*w);
    read_all(l.attention_norm.weight, c.width * 4);
    read_all(l.ffn_norm.weight, c.width * 4);
    for (int i = 0; i < l.qkv_count; ++i) {
      if (l.qkv_bias[i]) read_all(l.qkv_bias[i], l.qkv[i].rows * 4);
    }
  }
  read_all(model.final_norm.weight, c.width * 4);
  EXPECT_LT(rope_rates(c).size(), size_t{1} << 28);
}

Tensors own_tensors() {
  Tensors t{{"embedding.weight", numbered({11, 8})}, {"final_norm.weight", numbered({8})}};
  t["blocks.0.attention_norm.weight"] = t["blocks.0.ffn_norm.weight"] = numbered({8});
  t["blocks.0.attention.qkv.weight"] = numbered({16, 8});
  t["blocks.0.attention.out.weight"] = numbered({8, 8});
  t["blocks.0.ffn.up_weight"] = t["blocks.0.ffn.gate_weight"] = numbered({6, 8});
  t["blocks.0.ffn.down_weight"] = numbered({8, 6});
  return t;
}
constexpr const char* kOwnConfig =
    R"({"format_version":1,"vocab_size":11,"context":32,"layers":1,"width":8,"heads":4,"kv_heads":2,)"
    R"("ffn_width":6,"norm":"rms_norm","activation":"swiglu","position":"rope","bias":false,)"
    R"("rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1,"high_freq_factor":4,)"
    R"("original_max_position_embeddings":16},"windows":[4]})";

Tensors gpt2_tensors() {
  Tensors t{{"wte.weight", numbered({11, 8})}, {"wpe.weight", numbered({16, 8})}};
  for (const char* norm : {"ln_f", "h.0.ln_1", "h.0.ln_2"}) {
    t[std::string(norm) + ".weight"] = {{8}, std::string(16, '<'), "BF16"};
    t[std::string(norm) + ".bias"] = numbered({8});
  }
  const std::tuple<const char*, index_t, index_t> matrices[] = {{"h.0.attn.c_attn", 8, 24},
                                                                {"h.0.attn.c_proj", 8, 8},
                                                                {"h.0.mlp.c_fc", 8, 32},
                                                                {"h.0.mlp.c_proj", 32, 8}};
  for (const auto& [name, in, out] : matrices) {
    t[std::string(name) + ".weight"] = numbered({in, out});
    t[std::string(name) + ".bias"] = numbered({out});
  }
  return t;
}
constexpr const char* kGpt2Config =
    R"({"model_type":"gpt2","vocab_size":11,"n_embd":8,"n_layer":1,"n_head":4,"n_positions":16})";
constexpr const char* kLlamaConfig =
    R"({"model_type":"qwen2","vocab_size":11,"hidden_size":8,"num_hidden_layers":1,)"
    R"("num_attention_heads":4,"num_key_value_heads":2,"intermediate_size":6,"eos_token_id":[1,2],)"
    R"("layer_types":["sliding_attention"],"use_sliding_window":true,"sliding_window":4,)"
    R"("rope_parameters":{"rope_type":"linear","rope_theta":1e4,"factor":2.0}})";

std::string small_gguf() {
  Gguf g;
  g.string("general.architecture", "llama").number("llama.block_count", 1);
  g.number("llama.context_length", 32).number("llama.embedding_length", 32);
  g.number("llama.feed_forward_length", 32).number("llama.attention.head_count", 4);
  g.number("llama.attention.head_count_kv", 2);
  g.real("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  g.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "smollm");
  g.strings("tokenizer.ggml.tokens", {"<|end|>", "a", "b", "ab", "\u0120", "\u0120ab"});
  g.strings("tokenizer.ggml.merges", {"a b", "\u0120 ab"});
  std::string types = raw(uint32_t{5}) + raw(uint64_t{6}) + raw(int32_t{3});
  for (int i = 0; i < 5; ++i) types += raw(int32_t{1});
  g.add("tokenizer.ggml.token_type", 9, types);
  g.number("tokenizer.ggml.eos_token_id", 0).number("tokenizer.ggml.bos_token_id", 0);
  const auto q8 = [](index_t rows) { return std::string(static_cast<size_t>(rows) * 34, 'q'); };
  g.tensor("token_embd.weight", {6, 32}, q8(6), 8);
  g.tensor("output_norm.weight", {32}, numbered({32}).bytes);
  g.tensor("rope_freqs.weight", {4}, numbered({4}, 1).bytes);
  for (const char* norm : {"blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"})
    g.tensor(norm, {32}, numbered({32}).bytes);
  for (const char* name : {"attn_q", "attn_output", "ffn_gate", "ffn_up", "ffn_down"})
    g.tensor("blk.0." + std::string(name) + ".weight", {32, 32}, q8(32), 8);
  for (const char* name : {"attn_k", "attn_v"})
    g.tensor("blk.0." + std::string(name) + ".weight", {16, 32}, q8(16), 8);
  return g.file();
}

constexpr const char* kTokenizer =
    R"({"added_tokens":[{"id":5,"content":"<|end|>","special":true,"lstrip":true,"rstrip":true},)"
    R"({"id":6,"content":"ba","normalized":true}],"normalizer":{"type":"NFC"},"pre_tokenizer":{)"
    R"("type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},{"type":"ByteLevel",)"
    R"("add_prefix_space":true,"use_regex":true}]},"post_processor":{"type":"TemplateProcessing","single":)"
    R"([{"SpecialToken":{"id":"<|end|>","type_id":0}}]},"decoder":{"type":"ByteLevel"},"model":{"type":)"
    R"("BPE","unk_token":null,"vocab":{"a":0,"b":1,"ab":2,"\u0120":3,"\u0120ab":4},"merges":["a b",)"
    R"(["\u0120","ab"]]}})";

void use_tokenizer(const Tokenizer& tokenizer) {
  const std::vector<int32_t> ids =
      tokenizer.encode("ab ab  <|end|> ba\xff e\u0301 12's\r\n \u4f60", true);
  tokenizer.decode(ids, false);
  tokenizer.decode(tokenizer.encode("<|end|>", false));
  for (int32_t id : ids) ASSERT_LT(id, tokenizer.vocab_size());
}

class DamagedFiles : public ::testing::Test {
 protected:
  std::function<void(const std::string&)> model_from(const std::string& name) {
    return [=, this](const std::string& content) {
      folder_.write(name, content);
      read_all(*Model::load(name.ends_with(".gguf") ? folder_ / name : folder_.path()));
    };
  }
  std::function<void(const std::string&)> tokenizer_from(const std::string& name) {
    return [=, this](const std::string& content) {
      use_tokenizer(*Tokenizer::load(folder_.write(name, content)));
    };
  }
  Folder folder_;
};

TEST_F(DamagedFiles, SafetensorsAreLoadedOrRefused) {
  folder_.write("config.json", kGpt2Config);
  expect_robust(safetensors(gpt2_tensors()), 1, model_from("model.safetensors"));
}

TEST_F(DamagedFiles, ConfigsOfOurOwnAreLoadedOrRefused) {
  folder_.write("model.safetensors", safetensors(own_tensors()));
  expect_robust(kOwnConfig, 2, model_from("config.json"));
}

TEST_F(DamagedFiles, ConfigsOfHuggingFaceAreLoadedOrRefused) {
  Tensors tensors{{"model.embed_tokens.weight", numbered({11, 8})},
                  {"lm_head.weight", numbered({11, 8})},
                  {"model.norm.weight", numbered({8})}};
  const std::string layer = "model.layers.0.";
  for (const char* norm : {"input_layernorm.weight", "post_attention_layernorm.weight"})
    tensors[layer + norm] = numbered({8});
  for (const auto& [name, rows] : {std::pair("q", 8), {"k", 4}, {"v", 4}}) {
    tensors[layer + "self_attn." + name + "_proj.weight"] = numbered({rows, 8});
    tensors[layer + "self_attn." + name + "_proj.bias"] = numbered({rows});
  }
  tensors[layer + "self_attn.o_proj.weight"] = numbered({8, 8});
  for (const char* name : {"mlp.gate_proj.weight", "mlp.up_proj.weight"})
    tensors[layer + name] = numbered({6, 8});
  tensors[layer + "mlp.down_proj.weight"] = numbered({8, 6});
  folder_.write("model.safetensors", safetensors(tensors));
  expect_robust(kLlamaConfig, 3, model_from("config.json"));
}

TEST_F(DamagedFiles, IndicesOfShardsAreReadOrRefused) {
  folder_.write("config.json", kOwnConfig);
  folder_.write("one.safetensors", safetensors(own_tensors()));
  std::string index = "{\"metadata\":{\"total_size\":1},\"weight_map\":{";
  for (const auto& [name, tensor] : own_tensors())
    index += (index.back() == '{' ? "\"" : ",\"") + name + "\":\"one.safetensors\"";
  expect_robust(index + "}}", 4, model_from("model.safetensors.index.json"));
}

TEST_F(DamagedFiles, GgufModelsAreLoadedOrRefused) {
  expect_robust(small_gguf(), 5, model_from("model.gguf"));
}

TEST_F(DamagedFiles, TokenizersInGgufAreLoadedOrRefused) {
  expect_robust(small_gguf(), 6, tokenizer_from("model.gguf"));
}

TEST_F(DamagedFiles, TokenizersInJsonAreLoadedOrRefused) {
  expect_robust(kTokenizer, 7, tokenizer_from("tokenizer.json"));
}

}  // namespace
}  // namespace fusedlm::test
