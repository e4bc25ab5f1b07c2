#include "fusedlm/arena.h"

#include "bindings/binding.h"

namespace fusedlm::bindings {
namespace {

// A block of the arena as a Python buffer; it goes back when the last tensor on it is gone.
const Registration arena([](pybind11::module_& m) {
  pybind11::class_<ArenaBlock>(m, "ArenaBlock", pybind11::buffer_protocol())
      .def(pybind11::init<size_t>())
      .def_buffer([](ArenaBlock& block) {
        return pybind11::buffer_info(static_cast<uint8_t*>(block.data),
                                     static_cast<pybind11::ssize_t>(block.bytes));
      });
  m.def("arena_bytes", [] { return Arena::shared().bytes_held(); });
  m.def("release_arena", [] { Arena::shared().release(); });
});

}  // namespace
}  // namespace fusedlm::bindings
