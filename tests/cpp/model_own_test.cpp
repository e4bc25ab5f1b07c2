// Models from our own folders and from tensors in memory.

#include <gtest/gtest.h>

#include "fusedlm/model.h"
#include "small_llama.h"

namespace fusedlm::test {
namespace {

class OwnFolder : public ModelFolder {};

/// Our own folder: the names of models/decoder.py.
Tensors own_tensors(bool gated = true, bool bias = false) {
  Tensors t{{"embedding.weight", numbered({V, C}, 100)}, {"final_norm.weight", numbered({C}, 200)}};
  for (index_t i = 0; i < L; ++i) {
    const std::string b = "blocks." + std::to_string(i) + ".";
    t[b + "attention_norm.weight"] = numbered({C}, 300);
    t[b + "ffn_norm.weight"] = numbered({C}, 310);
    t[b + "attention.qkv.weight"] = numbered({(H + 2 * G) * D, C}, 400);
    t[b + "attention.out.weight"] = numbered({C, H * D}, 500);
    t[b + "ffn.up_weight"] = numbered({F, C}, 600);
    if (gated) t[b + "ffn.gate_weight"] = numbered({F, C}, 700);
    t[b + "ffn.down_weight"] = numbered({C, F}, 800);
    if (bias) t[b + "attention.qkv.bias"] = numbered({(H + 2 * G) * D}, 900);
  }
  return t;
}
std::string own_config(const std::string& more = "") {
  return R"({"format_version":1,"vocab_size":11,"context":32,"layers":2,"width":8,"heads":4,"kv_heads":2,)"
         R"("head_width":null,"ffn_width":6,"norm":"rms_norm","activation":"swiglu","position":"rope",)"
         R"("bias":false,"tied":true)" +
         (more.empty() ? "" : "," + more) + "}";
}

TEST_F(OwnFolder, LoadsWithAllTheirFields) {
  folder_.write("tokenizer.json", R"({"added_tokens":[{"id":3,"content":"<|endoftext|>"}]})");
  const auto model = load(own_config(R"("qkv_bias":true,"windows":[0,4],"rope_interleaved":true)"),
                          own_tensors(true, true));
  const DecoderConfig& c = model->config;
  EXPECT_EQ(c.family, "fusedlm");
  EXPECT_EQ(c.head_width, D);
  EXPECT_EQ(c.windows, (std::vector<index_t>{0, 4}));
  EXPECT_EQ(c.eos_ids, (std::vector<int32_t>{3}));
  EXPECT_TRUE(c.rope_interleaved && c.gated);
  EXPECT_EQ(c.activation, Activation::silu);
  EXPECT_EQ(model->layers[1].qkv_count, 1);
  EXPECT_EQ(model->layers[1].qkv_bias[0][1], 900.25f);
  EXPECT_EQ(value(model->layers[0].gate, 0, 1), 700.25f);
}

TEST_F(OwnFolder, OfAnotherVersionOrWithUnknownFieldsIsRefused) {
  std::string newer = own_config();
  newer.replace(newer.find(":1,"), 3, ":2,");
  expect_says(refusal<Unsupported>(newer, own_tensors()), "format_version is 2");
  expect_says(refusal(own_config(R"("experts":8)"), own_tensors()), "a field experts");
  expect_says(refusal(own_config(R"("windows":[1])"), own_tensors()), "windows has 1 entries");
}

DecoderConfig memory_config() {
  DecoderConfig c;
  c.family = "fusedlm";
  c.vocab_size = V;
  c.context = 32;
  c.layers = L;
  c.width = C;
  c.heads = H;
  c.kv_heads = G;
  c.head_width = D;
  c.ffn_width = F;
  return c;
}

TEST(FromTensors, TakesThemWhereTheyAreAndKeepsTheirOwner) {
  auto tensors = std::make_shared<Tensors>(own_tensors());
  std::map<std::string, TensorView> views;
  for (auto& [name, tensor] : *tensors) {
    TensorView view(tensor.bytes.data(), DType::float32, {0, 0});
    view.ndim = static_cast<int>(tensor.shape.size());
    std::copy(tensor.shape.begin(), tensor.shape.end(), view.shape.begin());
    view.strides = {view.ndim == 2 ? view.shape[1] : 1, 1};
    views[name] = view;
  }
  const void* embedding = views.at("embedding.weight").data;
  const std::weak_ptr<Tensors> alive = tensors;
  auto model = Model::from_tensors(memory_config(), views, std::move(tensors));
  EXPECT_EQ(model->embedding.data, embedding);
  EXPECT_EQ(model->head.data, embedding);
  EXPECT_FALSE(alive.expired());
  model.reset();
  EXPECT_TRUE(alive.expired());

  views.erase("final_norm.weight");
  expect_says(
      message_of<InvalidArgument>([&] { Model::from_tensors(memory_config(), views, nullptr); }),
      "missing: final_norm.weight");
  views.at("embedding.weight").strides[0] = 99;
  expect_says(
      message_of<InvalidArgument>([&] { Model::from_tensors(memory_config(), views, nullptr); }),
      "embedding.weight is not contiguous");
}

}  // namespace
}  // namespace fusedlm::test
