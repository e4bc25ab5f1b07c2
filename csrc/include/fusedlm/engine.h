#pragma once
// Runs a decoder over sequences whose keys and values are kept in pages: the whole step, from tokens to
// logits, in one call.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "fusedlm/device.h"
#include "fusedlm/model.h"

namespace fusedlm {

struct EngineOptions {
  /// Of activations where many tokens go through at once, and of keys and values. float32 or bfloat16;
  /// float32 is for exact comparisons.
  DType dtype = DType::bfloat16;
  /// Tokens whose keys and values fit, over all sequences, in whole pages; 0: two times the context of the
  /// model, but no more than 1 GiB holds.
  index_t cache_tokens = 0;
  /// Tokens that go through the layers together, at least 64; a call with more is done in pieces.
  index_t prefill_tokens = 512;
};

/// Engines are independent, also those of one model, and may run in threads of their own. One engine is for one
/// thread at a time: hand it round under a lock, or otherwise in order.
class Engine {
 public:
  using Sequence = int32_t;
  /// Tokens in a page of the cache.
  static constexpr index_t kPageTokens = 32;

  /// Throws InvalidArgument for options that do not fit, OutOfMemory where the cache cannot be had.
  explicit Engine(std::shared_ptr<const Model> model, const EngineOptions& options = {});
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const Model& model() const noexcept;
  /// As they were given, with cache_tokens as it is.
  const EngineOptions& options() const noexcept;

  /// A new sequence without tokens. Whole pages of `prompt` whose tokens and predecessors are in the
  /// cache already (of a living sequence or one that was closed not long ago) are shared with it, though
  /// never the prompt's last token; `length` tells how many tokens it starts with. Their keys and values
  /// are those of the call that computed them first. Throws InvalidArgument for a token outside the vocabulary.
  Sequence open(std::span<const int32_t> prompt = {});
  /// Its pages may be given out again, the least recently used first. Throws InvalidArgument where it is not
  /// open.
  void close(Sequence sequence);
  /// How many tokens it has. Throws InvalidArgument where it is not open.
  index_t length(Sequence sequence) const;
  /// Forgets what follows the first `length` tokens. Throws InvalidArgument where there are fewer, or it is not
  /// open.
  void truncate(Sequence sequence, index_t length);

  /// Tokens that could be added to a sequence now without closing another.
  index_t free_tokens() const noexcept;

  /// Of which of its tokens an append wants the logits that follow.
  enum class Logits : uint8_t { last, all, none };
  struct Append {
    Sequence sequence;
    std::span<const int32_t> tokens;  ///< at least one
    Logits logits = Logits::last;
  };
  /// Adds tokens to sequences, each at most once, and writes the logits [rows, V] that are asked for, in
  /// the order of the appends. Up to QuantizedLinear::kStreamedRows tokens in a call are computed in
  /// float32 between the products, and so that each token's logits, keys and values are the same bits
  /// whatever else is in the call, and however tokens are cut into such calls. More tokens have
  /// activations of `dtype`; up to prefill_tokens of them, of sequences that get more than kStreamedRows
  /// each, are the same bits in all such calls.
  /// Throws InvalidArgument (a token outside the vocabulary, a sequence that is closed or would outgrow
  /// the context, logits of a wrong size) and OutOfMemory (no page is free, or no scratch memory); then no
  /// sequence has changed.
  void forward(std::span<const Append> appends, std::span<float> logits);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fusedlm
