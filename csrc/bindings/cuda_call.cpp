// What a call on CUDA tensors takes from torch: the stream, and scratch memory.

#include "bindings/binding.h"

namespace py = pybind11;

namespace fusedlm::bindings {
namespace {

/// `with CudaCall(stream, allocate):` calls on this thread run in the stream, with scratch memory
/// from allocate(bytes), which gives a tensor; the tensors are let go at the end.
class CudaCall {
 public:
  CudaCall(uintptr_t stream, py::object allocate)
      : stream_(reinterpret_cast<void*>(stream)), allocate_(std::move(allocate)) {}

  void enter() {
    Context& ctx = Context::current();
    std::swap(ctx.stream, stream_);
    outer_ = ctx.device_allocator;
    ctx.device_allocator = {take, this};
  }
  void exit(const py::args&) {
    Context& ctx = Context::current();
    std::swap(ctx.stream, stream_);
    ctx.device_allocator = outer_;
    blocks_ = py::list();
  }

 private:
  // The kernels run without the interpreter lock. What torch raises goes through to the caller.
  static void* take(size_t bytes, void* state) {
    py::gil_scoped_acquire gil;
    auto& call = *static_cast<CudaCall*>(state);
    py::object block = call.allocate_(bytes);
    call.blocks_.append(block);
    return reinterpret_cast<void*>(block.attr("data_ptr")().cast<uintptr_t>());
  }

  void* stream_;
  py::object allocate_;
  py::list blocks_;
  DeviceAllocator outer_;
};

}  // namespace

static const Registration cuda_call([](py::module_& m) {
  py::class_<CudaCall>(m, "CudaCall")
      .def(py::init<uintptr_t, py::object>())
      .def("__enter__", &CudaCall::enter)
      .def("__exit__", &CudaCall::exit);
});

}  // namespace fusedlm::bindings
