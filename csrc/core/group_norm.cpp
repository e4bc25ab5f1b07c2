#include "fusedlm/group_norm.h"

#include "core/dispatch.h"
#include "core/linear_checks.h"

namespace fusedlm {

FUSEDLM_KERNEL(group_norm_forward, GroupNormForward)
FUSEDLM_KERNEL(group_norm_backward, GroupNormBackward)

namespace {

void input(const char* op, const TensorView& x, index_t groups) {
  check::tensor(op, "x", x, 3, check::floats(x));
  check::contiguous(op, "x", x);
  const index_t C = x.shape[1];
  if (C == 0) check::fail(op, "x has shape " + shape_string(x) + ", expected C > 0");
  if (groups < 1 || C % groups != 0) {
    check::fail(op, "groups is " + std::to_string(groups) +
                        ", expected a divisor of C = " + std::to_string(C) + " as in x");
  }
}

/// [B, C, S] as x.
void like_input(const char* op, const char* argument, const TensorView& view, const TensorView& x) {
  check::tensor(op, argument, view, 3, {x.dtype});
  check::shaped_like(op, argument, view, x, "x");
  check::contiguous(op, argument, view);
}

/// [B, groups]
void statistic(const char* op, const char* argument, const TensorView& view, const TensorView& x,
               index_t groups) {
  check::weight_of(op, argument, view, x.shape[0], "x", groups, "groups", {DType::float32});
}

}  // namespace

void group_norm_forward(const GroupNormForward& a, Context& ctx) {
  constexpr const char* op = "group_norm";
  input(op, a.x, a.groups);
  const index_t C = a.x.shape[1];
  const check::DTypes beside = check::floats_beside(a.x);
  if (a.weight.defined()) check::vector_of(op, "weight", a.weight, C, "x", beside);
  if (a.bias.defined()) {
    check::vector_of(op, "bias", a.bias, C, "x",
                     a.weight.defined() ? check::DTypes{a.weight.dtype} : beside);
  }
  like_input(op, "y", a.y, a.x);
  statistic(op, "mean", a.mean, a.x, a.groups);
  statistic(op, "rstd", a.rstd, a.x, a.groups);
  dispatch_group_norm_forward(a, ctx);
}

void group_norm_backward(const GroupNormBackward& a, Context& ctx) {
  constexpr const char* op = "group_norm_backward";
  input(op, a.x, a.groups);
  const index_t C = a.x.shape[1];
  like_input(op, "dy", a.dy, a.x);
  if (a.weight.defined()) {
    check::vector_of(op, "weight", a.weight, C, "x", check::floats_beside(a.x));
  }
  statistic(op, "mean", a.mean, a.x, a.groups);
  statistic(op, "rstd", a.rstd, a.x, a.groups);
  like_input(op, "dx", a.dx, a.x);
  if (a.dweight.defined()) {
    check::vector_of(op, "dweight", a.dweight, C, "x", {DType::float32});
  }
  if (a.dbias.defined()) check::vector_of(op, "dbias", a.dbias, C, "x", {DType::float32});
  dispatch_group_norm_backward(a, ctx);
}

}  // namespace fusedlm
