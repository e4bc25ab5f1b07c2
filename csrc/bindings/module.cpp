// The extension module fusedlm._core.

#include <system_error>
#include <vector>

#include "bindings/binding.h"
#include "fusedlm/version.h"

namespace py = pybind11;

namespace fusedlm::bindings {
namespace {

std::vector<void (*)(py::module_&)>& registrations() {
  static std::vector<void (*)(py::module_&)> list;
  return list;
}

// Attribute names are looked up millions of times; interned strings make each a pointer comparison.
struct Names {
  py::str data_ptr{"data_ptr"}, shape{"shape"}, stride{"stride"}, strides{"strides"},
      dtype{"dtype"}, is_cpu{"is_cpu"}, ctypes{"ctypes"}, data{"data"};
};
const Names& names() {
  static const Names* instance = new Names;  // lives as long as the interpreter
  return *instance;
}

// "torch.float32" and numpy's "float32" alike.
DType dtype_named(py::handle dtype) {
  std::string name = py::str(dtype);
  if (name.rfind("torch.", 0) == 0) name = name.substr(6);
  for (DType known : {DType::float32, DType::bfloat16, DType::float16, DType::float64, DType::int64,
                      DType::int32, DType::boolean}) {
    if (name == name_of(known)) return known;
  }
  return DType::other;
}

// torch's dtypes are few objects that live for ever, so a pointer is enough to know one again.
DType torch_dtype(py::handle dtype) {
  static auto* seen = new std::vector<std::pair<PyObject*, DType>>;
  for (auto& [object, known] : *seen) {
    if (object == dtype.ptr()) return known;
  }
  dtype.inc_ref();
  seen->emplace_back(dtype.ptr(), dtype_named(dtype));
  return seen->back().second;
}

void copy_dims(py::handle tuple, TensorView& view, std::array<index_t, kMaxDims>& into,
               index_t divisor) {
  const Py_ssize_t count = PyTuple_GET_SIZE(tuple.ptr());
  if (count > kMaxDims) {
    throw InvalidArgument("a tensor has " + std::to_string(count) +
                          " dimensions, expected at most 5");
  }
  view.ndim = static_cast<int>(count);
  for (Py_ssize_t i = 0; i < count; ++i) {
    into[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(tuple.ptr(), i)) / divisor;
  }
}

}  // namespace

TensorView view_of(py::handle object) {
  TensorView view;
  if (object.is_none()) return view;
  const Names& n = names();
  if (py::hasattr(object, n.data_ptr)) {  // torch
    view.dtype = torch_dtype(object.attr(n.dtype));
    copy_dims(object.attr(n.shape), view, view.shape, 1);
    copy_dims(object.attr(n.stride)(), view, view.strides, 1);
    view.device = object.attr(n.is_cpu).cast<bool>() ? DeviceType::cpu : DeviceType::cuda;
    view.data = reinterpret_cast<void*>(object.attr(n.data_ptr)().cast<uintptr_t>());
    return view;
  }
  if (py::hasattr(object, "__array_interface__")) {  // numpy
    view.dtype = dtype_named(object.attr(n.dtype));
    copy_dims(object.attr(n.shape), view, view.shape, 1);
    copy_dims(object.attr(n.strides), view, view.strides, size_of(view.dtype));
    view.data = reinterpret_cast<void*>(object.attr(n.ctypes).attr(n.data).cast<uintptr_t>());
    return view;
  }
  throw py::type_error("expected a torch tensor or a numpy array, got " +
                       std::string(py::str(py::type::handle_of(object).attr("__name__"))));
}

namespace {

// What a message quotes of a file may be no UTF-8, or cut inside a character.
py::object text_of(const std::string& message) {
  const auto size = static_cast<Py_ssize_t>(message.size());
  return py::reinterpret_steal<py::object>(
      PyUnicode_DecodeUTF8(message.data(), size, "backslashreplace"));
}

void set_error(PyObject* type, const std::exception& error) {
  PyErr_SetObject(type, text_of(error.what()).ptr());
}

// The message of a CorruptFile begins with the path of the file.
void set_corrupt_file_error(const char* message) {
  const std::string text = message;
  const size_t colon = text.find(": ");
  const std::string path = text.substr(0, colon);
  const std::string reason = colon == std::string::npos ? "" : text.substr(colon + 2);
  const py::object type = py::module_::import("fusedlm.errors").attr("CorruptFileError");
  PyErr_SetObject(type.ptr(), type(text_of(path), text_of(reason)).ptr());
}

// An OSError of errno, which is FileNotFoundError and the like by its number.
void set_os_error(const std::system_error& error) {
  const py::handle type = PyExc_OSError;
  const py::object value = type(error.code().value(), text_of(error.what()));
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(value.ptr())), value.ptr());
}

}  // namespace

Registration::Registration(void (*add)(py::module_&)) { registrations().push_back(add); }

PYBIND11_MODULE(_core, m) {
  // NOLINTNEXTLINE(performance-unnecessary-value-param): pybind11's signature
  py::register_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const InvalidArgument& e) {
      set_error(PyExc_ValueError, e);
    } catch (const Unsupported& e) {
      set_error(PyExc_NotImplementedError, e);
    } catch (const OutOfMemory& e) {
      set_error(PyExc_MemoryError, e);
    } catch (const CorruptFile& e) {
      set_corrupt_file_error(e.what());
    } catch (const std::system_error& e) {
      set_os_error(e);
    }
  });
  m.attr("version") = version();
  m.attr("cuda_compiled") = cuda_compiled();
  m.def("isa", [] { return std::string(name_of(current_isa())); });
  m.def("set_isa", [](const std::string& name) { set_isa(isa_from_name(name)); });
  m.def("available_isas", [] {
    std::vector<std::string> list;
    for (Isa isa : available_isas()) list.emplace_back(name_of(isa));
    return list;
  });
  m.def("num_threads", [] { return num_threads(); });
  m.def("set_num_threads", [](int threads) { set_num_threads(threads); });
  m.def("workspace_bytes", [] { return Context::current().workspace().capacity(); });
  m.def("release_workspace", [] { Context::current().workspace().release(); });
  for (auto add : registrations()) add(m);
}

}  // namespace fusedlm::bindings
