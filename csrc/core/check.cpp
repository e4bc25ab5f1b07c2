#include "core/check.h"

#include "fusedlm/device.h"

namespace fusedlm::check {
namespace {

struct State {
  const char* op = nullptr;
  std::string first;  // the argument that decides about the device
  DeviceType device = DeviceType::cpu;
  std::vector<Argument> arguments;

  void clear() {
    op = nullptr;
    arguments.clear();
  }
};
thread_local State state;

void on_one_device(const char* op, const char* argument, const TensorView& view) {
  // The first argument again: a call came to its end without a dispatch.
  if (state.op != op || state.first == argument) {
    state.clear();
    state.op = op;
    state.first = argument;
    state.device = view.device;
    if (view.device == DeviceType::cuda && !cuda_compiled()) {
      fail(op, std::string(argument) +
                   " is on cuda, but this build has no CUDA kernels (build with FUSEDLM_CUDA=ON)");
    }
  } else if (state.device != view.device) {
    constexpr const char* names[] = {"cpu", "cuda"};
    fail(op, std::string(argument) + " is on " + names[static_cast<int>(view.device)] +
                 ", expected " + names[static_cast<int>(state.device)] + " like " + state.first);
  }
}

}  // namespace

Call::~Call() { state.clear(); }
DeviceType Call::device() const { return state.op ? state.device : DeviceType::cpu; }
const std::vector<Argument>& Call::arguments() const { return state.arguments; }

std::string DTypes::names() const {
  std::string names;
  for (DType dtype : {DType::float32, DType::bfloat16, DType::float16, DType::float64, DType::int64,
                      DType::int32, DType::boolean}) {
    if (has(dtype)) names += (names.empty() ? "" : " or ") + std::string(name_of(dtype));
  }
  return names;
}

DTypes floats(const TensorView& view) {
  if (view.device == DeviceType::cuda || current_isa() == Isa::simt) {
    return {DType::float32, DType::bfloat16, DType::float16};
  }
  return {DType::float32, DType::bfloat16};
}

DTypes floats_beside(const TensorView& view) {
  return view.dtype == DType::float32 ? floats(view) : DTypes{DType::float32, view.dtype};
}

void fail(const char* op, const std::string& message) {
  state.clear();
  throw InvalidArgument(std::string(op) + ": " + message);
}

void tensor(const char* op, const char* argument, const TensorView& view, int ndim,
            const DTypes& dtypes) {
  const std::string name = argument;
  if (!view.defined()) fail(op, name + " is missing");
  on_one_device(op, argument, view);
  if (view.ndim != ndim) {
    fail(op, name + " has shape " + shape_string(view) + ", expected " + std::to_string(ndim) +
                 " dimensions");
  }
  if (!dtypes.has(view.dtype)) {
    fail(op, name + " has dtype " + name_of(view.dtype) + ", expected " + dtypes.names());
  }
  if (current_isa() == Isa::simt) state.arguments.push_back({name, view});
}

void dim(const char* op, const char* argument, const TensorView& view, int dim, index_t expected,
         const char* like) {
  if (view.shape[dim] == expected) return;
  fail(op, std::string(argument) + " has shape " + shape_string(view) + ", expected " +
               std::to_string(expected) + " in dimension " + std::to_string(dim) + " as in " +
               like);
}

void shaped_like(const char* op, const char* argument, const TensorView& view,
                 const TensorView& like, const char* like_name) {
  for (int d = 0; d < like.ndim; ++d) dim(op, argument, view, d, like.shape[d], like_name);
}

void ids(const char* op, const char* argument, std::span<const int32_t> ids, index_t V) {
  for (const int32_t id : ids) {
    if (id >= 0 && id < V) continue;
    fail(op, std::string(argument) + " holds " + std::to_string(id) +
                 ", expected 0 <= id < V = " + std::to_string(V));
  }
}

void last_contiguous(const char* op, const char* argument, const TensorView& view) {
  if (view.ndim == 0 || view.numel() == 0 || view.shape[view.ndim - 1] <= 1 ||
      view.strides[view.ndim - 1] == 1)
    return;
  fail(op, std::string(argument) + " has stride " + std::to_string(view.strides[view.ndim - 1]) +
               " in its last dimension, expected 1");
}

void contiguous(const char* op, const char* argument, const TensorView& view) {
  index_t step = 1;
  for (int i = view.ndim - 1; i >= 0; --i) {
    if (view.shape[i] > 1 && view.strides[i] != step && view.numel() > 0) {
      fail(op, std::string(argument) + " is not contiguous");
    }
    step *= view.shape[i];
  }
}

}  // namespace fusedlm::check
