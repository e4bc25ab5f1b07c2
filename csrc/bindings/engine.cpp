#include "bindings/engine.h"

namespace py = pybind11;

namespace fusedlm::bindings {
namespace {

using Tokens = std::vector<int32_t>;
/// A sequence, its new tokens, and whether all their logits are wanted, or those of the last.
using Append = std::tuple<Engine::Sequence, Tokens, bool>;

std::shared_ptr<SharedEngine> make(std::shared_ptr<Model> model, const std::string& dtype,
                                   index_t cache_tokens, index_t prefill_tokens) {
  EngineOptions options;
  if (dtype != "float32" && dtype != "bfloat16") {
    throw InvalidArgument("engine: dtype is '" + dtype + "', expected 'float32' or 'bfloat16'");
  }
  options.dtype = dtype == "float32" ? DType::float32 : DType::bfloat16;
  options.cache_tokens = cache_tokens;
  options.prefill_tokens = prefill_tokens;
  py::gil_scoped_release release;
  return std::make_shared<SharedEngine>(std::make_shared<Engine>(std::move(model), options));
}

std::span<float> floats_of(const TensorView& logits) {
  const bool dense = logits.ndim == 2 && (logits.shape[1] <= 1 || logits.strides[1] == 1) &&
                     (logits.shape[0] <= 1 || logits.strides[0] == logits.shape[1]);
  if (!dense || logits.dtype != DType::float32 || logits.device != DeviceType::cpu) {
    throw InvalidArgument("engine: logits has dtype " + std::string(name_of(logits.dtype)) +
                          " and shape " + (logits.defined() ? shape_string(logits) : "none") +
                          ", expected a dense float32 [rows, V] on the CPU");
  }
  return {logits.as<float>(), static_cast<size_t>(logits.numel())};
}

}  // namespace

static const Registration engine([](py::module_& m) {
  using Shared = SharedEngine;
  py::class_<Shared, std::shared_ptr<Shared>>(m, "Engine")
      .def(py::init(&make), py::arg("model"), py::arg("dtype") = "bfloat16",
           py::arg("cache_tokens") = 0, py::arg("prefill_tokens") = 512)
      .def_property_readonly_static("page_tokens",
                                    [](const py::object&) { return Engine::kPageTokens; })
      .def_property_readonly("cache_tokens",
                             [](Shared& self) { return self.engine()->options().cache_tokens; })
      .def(
          "open",
          [](Shared& self, const Tokens& prompt) {
            return self.call([&](Engine& e) { return e.open(prompt); });
          },
          py::arg("prompt") = Tokens{})
      .def("close",
           [](Shared& self, Engine::Sequence sequence) {
             self.call([&](Engine& e) { e.close(sequence); });
           })
      .def("length",
           [](Shared& self, Engine::Sequence sequence) {
             return self.call([&](Engine& e) { return e.length(sequence); });
           })
      .def("truncate",
           [](Shared& self, Engine::Sequence sequence, index_t length) {
             self.call([&](Engine& e) { e.truncate(sequence, length); });
           })
      .def_property_readonly(
          "free_tokens",
          [](Shared& self) { return self.call([](Engine& e) { return e.free_tokens(); }); })
      .def(
          "forward",
          [](Shared& self, const std::vector<Append>& appends, const TensorView& logits) {
            const std::span<float> out = floats_of(logits);
            std::vector<Engine::Append> list;
            for (const auto& [sequence, tokens, all] : appends) {
              list.push_back({sequence, tokens, all ? Engine::Logits::all : Engine::Logits::last});
            }
            self.call([&](Engine& e) { e.forward(list, out); });
          },
          py::arg("appends"), py::arg("logits"));
});

}  // namespace fusedlm::bindings
