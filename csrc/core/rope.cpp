#include "fusedlm/rope.h"

#include "core/check.h"
#include "core/dispatch.h"

namespace fusedlm {

FUSEDLM_KERNEL(rope, Rope)

void rope(const Rope& args, Context& ctx) {
  constexpr const char* op = "rope";
  check::tensor(op, "x", args.x, 4, check::floats(args.x));
  check::last_contiguous(op, "x", args.x);
  check::tensor(op, "y", args.y, 4, {args.x.dtype});
  check::shaped_like(op, "y", args.y, args.x, "x");
  check::last_contiguous(op, "y", args.y);
  check::tensor(op, "cos", args.cos, 2, {DType::float32});
  check::contiguous(op, "cos", args.cos);
  check::tensor(op, "sin", args.sin, 2, {DType::float32});
  check::contiguous(op, "sin", args.sin);
  check::shaped_like(op, "sin", args.sin, args.cos, "cos");
  const index_t P = args.cos.shape[0];
  if (2 * args.cos.shape[1] > args.x.shape[3]) {
    check::fail(op, "cos has shape " + shape_string(args.cos) + ", expected at most D / 2 = " +
                        std::to_string(args.x.shape[3] / 2) + " columns");
  }
  if (args.positions.defined()) {
    check::tensor(op, "positions", args.positions, 2, {DType::int64});
    check::dim(op, "positions", args.positions, 0, args.x.shape[0], "x");
    check::dim(op, "positions", args.positions, 1, args.x.shape[1], "x");
    for (index_t b = 0; b < args.x.shape[0] && check::readable(args.positions); ++b) {
      for (index_t t = 0; t < args.x.shape[1]; ++t) {
        const int64_t at =
            args.positions
                .as<int64_t>()[b * args.positions.strides[0] + t * args.positions.strides[1]];
        if (at < 0 || at >= P) {
          check::fail(op, "positions holds " + std::to_string(at) + ", expected 0 to " +
                              std::to_string(P - 1));
        }
      }
    }
  } else if (args.x.shape[1] > P) {
    check::fail(op, "x has T = " + std::to_string(args.x.shape[1]) + " tokens, but cos has " +
                        std::to_string(P) + " rows");
  }
  if (args.x.numel() == 0) {
    const check::Call nothing_to_do;
    return;
  }
  dispatch_rope(args, ctx);
}

}  // namespace fusedlm
