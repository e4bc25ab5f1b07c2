#pragma once
// The kernels of an op as a GPU gets them: past the host's checks of values.

#include <initializer_list>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/dispatch.h"
#include "cuda/simt/buffers.h"
#include "fusedlm/device.h"
#include "support.h"

namespace fusedlm::simt {
void register_arguments(const check::Call& call);
}

namespace fusedlm::test {

/// Conflicts between threads over the arguments: some bad values give two sequences the same rows.
enum class Races { reported, allowed };

/// Calls simt::<op>; kernels may touch what `arguments` has, as if the op had checked them.
template <class Args>
void call_unchecked(void (*op)(const Args&, Context&), const Args& args,
                    std::initializer_list<check::Argument> arguments,
                    Races races = Races::reported) {
  struct Restore {
    Isa before = current_isa();
    ~Restore() {
      set_isa(before);
      simt::forget_buffers();
    }
  } restore;
  set_isa(Isa::simt);
  for (const check::Argument& a : arguments) {
    if (!a.view.defined()) continue;
    check::tensor("unchecked", a.name.c_str(), a.view, a.view.ndim, {a.view.dtype});
  }
  const check::Call call;
  Context& ctx = Context::current();
  Workspace::Scope scope(ctx.workspace());
  simt::register_arguments(call);
  if (races == Races::allowed) {
    std::vector<std::pair<char*, size_t>> ranges;
    for (const simt::Buffer& b : simt::registered_buffers()) ranges.emplace_back(b.data, b.bytes);
    simt::forget_buffers();
    for (const auto& [data, bytes] : ranges) simt::register_buffer("argument", data, bytes, 0);
  }
  op(args, ctx);
}

/// A buffer to write: elements of 7, so that a NaN or a -1 in it has been written.
inline Buffer sevens(std::initializer_list<index_t> shape, DType dtype = DType::float32) {
  Buffer buffer(shape, dtype);
  for (index_t i = 0; i < buffer.size(); ++i) buffer.set(i, 7);
  return buffer;
}

/// Rows of `got` are those of `wanted`, bit for bit, but for those where is_bad(row): these are NaN
/// in their first `turned` columns.
template <class IsBad>
void expect_nan_in_bad_rows(const Buffer& got, const Buffer& wanted, index_t columns, IsBad is_bad,
                            index_t turned, const char* name) {
  for (index_t i = 0; i < got.size(); ++i) {
    const index_t row = i / columns;
    if (is_bad(row) && i % columns < turned) {
      ASSERT_TRUE(std::isnan(got[i])) << name << "[" << i << "] is " << got[i];
    } else {
      ASSERT_EQ(got[i], wanted[i]) << name << "[" << i << "]";
    }
  }
}

template <class IsBad>
void expect_nan_in_bad_rows(const Buffer& got, const Buffer& wanted, index_t columns, IsBad is_bad,
                            const char* name) {
  expect_nan_in_bad_rows(got, wanted, columns, is_bad, columns, name);
}

inline void expect_all_nan(const Buffer& got, const char* name) {
  for (index_t i = 0; i < got.size(); ++i) {
    ASSERT_TRUE(std::isnan(got[i])) << name << "[" << i << "] is " << got[i];
  }
}

}  // namespace fusedlm::test
