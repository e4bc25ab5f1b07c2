#include "fusedlm/tokenizer.h"

#include "bindings/binding.h"

namespace py = pybind11;

namespace fusedlm::bindings {

// For tests, and for programs without the `tokenizers` library.
static const Registration tokenizer([](py::module_& m) {
  py::class_<Tokenizer, std::shared_ptr<Tokenizer>>(m, "Tokenizer")
      .def_static(
          "load",
          [](const std::string& path) {
            return std::const_pointer_cast<Tokenizer>(Tokenizer::load(path));
          },
          py::arg("path"), py::call_guard<py::gil_scoped_release>())
      .def(
          "encode",
          [](const Tokenizer& self, const std::string& text, bool special) {
            return self.encode(text, special);
          },
          py::arg("text"), py::arg("special") = true, py::call_guard<py::gil_scoped_release>())
      .def(
          "decode",
          [](const Tokenizer& self, const std::vector<int32_t>& tokens, bool skip_special) {
            return py::bytes(self.decode(tokens, skip_special));
          },
          py::arg("tokens"), py::arg("skip_special") = true)
      .def("id_of",
           [](const Tokenizer& self, const std::string& token) { return self.id_of(token); })
      .def_property_readonly("vocab_size", &Tokenizer::vocab_size)
      .def_property_readonly("bos_id", &Tokenizer::bos_id);
  py::class_<TextStream>(m, "TextStream")
      .def(py::init([](std::shared_ptr<Tokenizer> tokenizer, bool skip_special) {
             return TextStream(std::move(tokenizer), skip_special);
           }),
           py::arg("tokenizer").none(false), py::arg("skip_special") = true)
      .def(
          "add",
          [](TextStream& self, const std::vector<int32_t>& tokens) {
            return py::bytes(self.add(tokens));
          },
          py::arg("tokens"))
      .def("finish", [](TextStream& self) { return py::bytes(self.finish()); });
});

}  // namespace fusedlm::bindings
