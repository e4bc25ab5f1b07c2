#include "fusedlm/arena.h"

#include "bindings/binding.h"

namespace fusedlm::bindings {
namespace {

// A block of the arena as a Python buffer; it goes back when the last tensor on it is gone.
struct ArenaBlock {
  explicit ArenaBlock(size_t bytes) : data(Arena::shared().take(bytes)), bytes(bytes) {}
  ~ArenaBlock() { Arena::shared().give(data); }
  ArenaBlock(const ArenaBlock&) = delete;
  ArenaBlock& operator=(const ArenaBlock&) = delete;
  void* data;
  size_t bytes;
};

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
