#pragma once
#include "fusedlm/device.h"
#include "fusedlm/tensor.h"

namespace fusedlm {

/// Rotary position embedding (Su et al. 2021, arXiv:2104.09864). The first R of the D elements of a head
/// are R/2 pairs, and pair i of a token at position p turns by the angle of row p, column i of the tables:
///   (a, b) -> (a cos - b sin, b cos + a sin);  `inverse` turns the other way, which is the backward.
/// Pairs are (i, i + R/2), or (2i, 2i + 1) if `interleaved`. Elements from R on are copied.
///   x, y       [B, T, H, D]  float32 or bfloat16, last dimension contiguous
///   cos, sin   [P, R/2]      float32
///   positions  [B, T]        int64, rows of the tables; undefined: 0, 1, ... T - 1
/// Throws as every op (errors.h), InvalidArgument naming the position outside the tables too.
/// Positions on a GPU are not looked at first: there what turns by such a row becomes NaN.
struct Rope {
  TensorView x, cos, sin, positions{}, y;
  bool interleaved = false, inverse = false;
};
void rope(const Rope& args, Context& ctx);

}  // namespace fusedlm
