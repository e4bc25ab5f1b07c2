#pragma once
// How Python objects become TensorViews, and how an op family registers its functions.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "fusedlm/device.h"
#include "fusedlm/errors.h"
#include "fusedlm/tensor.h"

namespace fusedlm::bindings {

/// A torch tensor or numpy array as a view; None becomes an undefined view.
TensorView view_of(pybind11::handle object);

/// Adds a function to the list that the module runs through when it is imported.
struct Registration {
  explicit Registration(void (*add)(pybind11::module_&));
};

/// Calls fn(args, ctx) without the interpreter lock.
template <class Fn, class Args>
void run(Fn&& fn, const Args& args) {
  pybind11::gil_scoped_release release;
  fn(args, Context::current());
}

}  // namespace fusedlm::bindings

namespace pybind11::detail {
template <>
struct type_caster<fusedlm::TensorView> {
  PYBIND11_TYPE_CASTER(fusedlm::TensorView, const_name("Tensor"));
  bool load(handle source, bool) {
    value = fusedlm::bindings::view_of(source);
    return true;
  }
};
}  // namespace pybind11::detail
