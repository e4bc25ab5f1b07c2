#pragma once
// One pass of tokens through the layers of a decoder.

#include <memory>
#include <span>
#include <vector>

#include "engine/cache.h"
#include "engine/rope_tables.h"
#include "fusedlm/attention.h"
#include "fusedlm/quantized_linear.h"

namespace fusedlm::engine {

/// Tokens of one sequence that go through together; its pages have room for them.
struct Segment {
  std::span<const int32_t> tokens;
  index_t start = 0;  ///< tokens before them
  std::span<const int32_t> pages;
  Engine::Logits logits = Engine::Logits::last;
};

/// Up to QuantizedLinear::kStreamedRows rows, activations are float32, and each row is computed as if it
/// were alone. More rows have activations of the engine's dtype; the sum that runs through the layers
/// is float32 even then.
class DecoderStep {
 public:
  DecoderStep(std::shared_ptr<const Model> model, DType dtype, index_t most_rows);

  /// Writes keys and values into the cache, and the logits that the segments ask for.
  void run(std::span<const Segment> segments, PagedCache& cache, float* logits, Context& ctx);

 private:
  void place_rows(std::span<const Segment> segments);
  void embed(Context& ctx);
  void tables_for_rows(std::span<const Segment> segments);
  void attention_block(index_t layer, std::span<const Segment> segments, PagedCache& cache,
                       Context& ctx);
  void attend(index_t layer, std::span<const Segment> segments, PagedCache& cache, Context& ctx);
  void ffn_block(const LayerWeights& w, Context& ctx);
  void keep_asked_rows(std::span<const Segment> segments);
  void write_logits(float* logits, Context& ctx);
  void norm(const TensorView& x, const NormWeights& weights, const TensorView& y, Context& ctx);
  void product(const QuantizedLinear& args, Context& ctx);

  TensorView stream() const { return {stream_, DType::float32, {rows_, config_.width}}; }
  TensorView activations(void* data, index_t columns) const {
    return {data, act_, {rows_, columns}};
  }

  std::shared_ptr<const Model> model_;
  const DecoderConfig& config_;
  DType dtype_;
  RopeTables rope_;
  RopeRows turns_;  // of this step
  Memory memory_;
  float *stream_ = nullptr, *lse_ = nullptr;
  void *x_ = nullptr, *qkv_ = nullptr, *mixed_ = nullptr, *hidden_ = nullptr;

  // Of the rows of this step; behind the last layer's attention, of those whose logits are asked for.
  index_t rows_ = 0;
  DType act_ = DType::float32;
  bool streamed_ = true;
  std::vector<int32_t> tokens_, positions_, lengths_, table_;
  std::vector<index_t> slots_;
  index_t table_width_ = 0;
};

}  // namespace fusedlm::engine
