#pragma once
// From the tensors of a file to a Model: where each family keeps which weight, and the checks that all
// are there with the shapes that the config asks for.

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "engine/stored_tensor.h"
#include "fusedlm/model.h"

namespace fusedlm {

// What a file may claim. Far beyond any decoder there is, and small enough that no product of two
// overflows and that a list of layers is no giant allocation.
inline constexpr index_t kMostLayers = 4096, kMostSize = index_t{1} << 28;

enum class Presence : uint8_t { never, always, if_stored };
inline Presence always_if(bool there) { return there ? Presence::always : Presence::never; }

/// Names of a family's tensors. {} stands for the number of the layer, * for "weight" or "bias".
struct TensorNames {
  std::string embedding, position_embedding, head, final_norm;
  std::string attention_norm, ffn_norm, query_norm, key_norm;
  std::vector<std::string> qkv;  ///< one, with query, key and value below each other, or three
  std::string out, gate, up, down;
  /// Endings of names that are no weights (buffers that old checkpoints hold), left out.
  std::vector<std::string> ignored;
};

/// What a family has besides the matrices that all have.
struct Layout {
  TensorNames names;
  Presence norm_bias = Presence::never, qkv_bias = Presence::never, out_bias = Presence::never;
  Presence ffn_bias = Presence::never, qk_norm = Presence::never;
  Presence head = Presence::always;  ///< never: tied, and a head that is stored is left out
  bool transposed = false;           ///< matrices of the layers are [in, out] (GPT-2's Conv1D)
};

/// Throws CorruptFile naming the field for shapes that cannot be: 0 or absurd dimensions, heads that
/// kv_heads does not divide, an odd head_width with RoPE, windows that are neither one a layer
/// nor none at all.
void check_config(const DecoderConfig& config, const std::string& where);

class ModelBuilder {
 public:
  ModelBuilder(DecoderConfig config, Layout layout, const StoredTensors& stored,
               const LoadOptions& options);

  /// Throws CorruptFile with all that is missing, misshapen or not known at once.
  std::shared_ptr<Model> build();

 private:
  void layer(index_t index);
  NormWeights norm(const std::string& pattern, index_t layer, index_t size, Presence bias);
  /// Puts the matrix in its place as it is stored; `finish` does what remains.
  void matrix(Weight& into, const std::string& pattern, index_t layer, index_t rows, index_t cols,
              bool transposed = false);
  const float* vector(const std::string& pattern, const char* kind, index_t layer, index_t size,
                      Presence presence);
  struct Found {
    const void* data;
    WeightFormat format;
  };
  /// The tensor, if it is there with this shape; what is wrong is noted.
  std::optional<Found> find(const std::string& name, const std::vector<index_t>& shape,
                            Presence presence);
  Weight transpose(const Weight& weight);
  Weight convert(const Weight& weight, const std::string& name, WeightFormat format);
  void* own(index_t bytes);
  void count(const Weight& weight, bool read_each_step);
  void refuse_problems() const;
  /// Transposes and converts, once it is known that all is there.
  void finish();

  struct Placed {
    Weight* weight;
    std::string name;
    bool transposed;
  };
  Layout layout_;
  const StoredTensors& stored_;
  LoadOptions options_;
  std::shared_ptr<Model> model_;
  std::vector<Placed> placed_;
  std::vector<std::string> missing_, wrong_;
  std::set<std::string> used_;
};

}  // namespace fusedlm
