#include "fusedlm/model.h"

#include "bindings/binding.h"
#include "engine/json.h"
#include "engine/model_sources.h"

namespace py = pybind11;

namespace fusedlm::bindings {
namespace {

py::dict config_dict(const DecoderConfig& c) {
  constexpr const char* norms[] = {"layer_norm", "rms_norm"};
  constexpr const char* activations[] = {"none", "relu", "gelu", "gelu_tanh", "silu"};
  constexpr const char* positions[] = {"learned", "rope"};
  constexpr const char* scalings[] = {"none", "linear", "llama3", "factors", "yarn"};
  py::dict scaling;
  scaling["kind"] = scalings[static_cast<int>(c.rope_scaling.kind)];
  scaling["factor"] = c.rope_scaling.factor;
  scaling["low_freq_factor"] = c.rope_scaling.low_freq_factor;
  scaling["high_freq_factor"] = c.rope_scaling.high_freq_factor;
  scaling["original_context"] = c.rope_scaling.original_context;
  scaling["factors"] = c.rope_scaling.factors;
  scaling["beta_fast"] = c.rope_scaling.beta_fast;
  scaling["beta_slow"] = c.rope_scaling.beta_slow;
  scaling["attention_factor"] = c.rope_scaling.attention_factor;
  py::dict d;
  d["family"] = c.family;
  d["vocab_size"] = c.vocab_size;
  d["context"] = c.context;
  d["layers"] = c.layers;
  d["width"] = c.width;
  d["heads"] = c.heads;
  d["kv_heads"] = c.kv_heads;
  d["head_width"] = c.head_width;
  d["ffn_width"] = c.ffn_width;
  d["norm"] = norms[static_cast<int>(c.norm)];
  d["norm_eps"] = c.norm_eps;
  d["activation"] = activations[static_cast<int>(c.activation)];
  d["gated"] = c.gated;
  d["positions"] = positions[static_cast<int>(c.positions)];
  d["rope_base"] = c.rope_base;
  d["rope_scaling"] = scaling;
  d["rope_interleaved"] = c.rope_interleaved;
  d["windows"] = c.windows;
  d["eos_ids"] = c.eos_ids;
  d["bos_id"] = c.bos_id;
  return d;
}

LoadOptions options_of(const std::optional<std::string>& format) {
  LoadOptions options;
  if (format) options.format = weight_format_from_name(*format);
  return options;
}

// What a dictionary with the fields of ModelConfig says.
DecoderConfig config_of(const py::dict& fields) {
  const std::string text = py::str(py::module_::import("json").attr("dumps")(fields));
  try {
    const json::Value value = json::parse(text, "Model.from_tensors: config");
    return read_own_config(json::Fields(value, "Model.from_tensors: config"));
  } catch (const CorruptFile& error) {
    throw InvalidArgument(error.what());  // there is no file
  }
}

std::shared_ptr<Model> from_tensors(const py::dict& config, const py::dict& tensors,
                                    const std::optional<std::string>& format) {
  std::map<std::string, TensorView> views;
  for (const auto& [name, tensor] : tensors) views[py::str(name)] = view_of(tensor);
  // The tensors live as long as the model; whoever lets go of it last may be a thread without Python.
  std::shared_ptr<void> keep(new py::dict(tensors.attr("copy")()), [](void* held) {
    const py::gil_scoped_acquire acquire;
    delete static_cast<py::dict*>(held);
  });
  const DecoderConfig parsed = config_of(config);
  const LoadOptions options = options_of(format);
  py::gil_scoped_release release;
  return std::const_pointer_cast<Model>(
      Model::from_tensors(parsed, views, std::move(keep), options));
}

}  // namespace

static const Registration model([](py::module_& m) {
  py::class_<Model, std::shared_ptr<Model>>(m, "Model")
      .def_static(
          "load",
          [](const std::string& path, const std::optional<std::string>& format) {
            const LoadOptions options = options_of(format);
            py::gil_scoped_release release;
            return std::const_pointer_cast<Model>(Model::load(path, options));
          },
          py::arg("path"), py::arg("format") = py::none())
      .def_static("from_tensors", from_tensors, py::arg("config"), py::arg("tensors"),
                  py::arg("format") = py::none())
      .def_property_readonly("config", [](const Model& self) { return config_dict(self.config); })
      .def_readonly("parameters", &Model::parameters)
      .def_readonly("bytes", &Model::bytes)
      .def_readonly("metadata", &Model::metadata);
});

}  // namespace fusedlm::bindings
