#pragma once
// What the C++ tests share: tensors that own their memory, seeded numbers, matrices in double for
// the references, and loops over instruction sets and numbers of threads.

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include "float16.h"
#include "fusedlm/activation.h"
#include "fusedlm/device.h"
#include "fusedlm/errors.h"
#include "fusedlm/tensor.h"

namespace fusedlm::test {

constexpr DType kFloatTypes[] = {DType::float32, DType::bfloat16};
/// And float16 where the emulator is built in: its kernels are the GPU's alone (on_every_isa_for).
inline std::vector<DType> all_float_types() {
  std::vector<DType> types(std::begin(kFloatTypes), std::end(kFloatTypes));
  const std::vector<Isa> isas = available_isas();
  if (std::find(isas.begin(), isas.end(), Isa::simt) != isas.end()) types.push_back(DType::float16);
  return types;
}
/// What an op takes together: float32 goes with each type of 16 bits, but the two not with each other.
constexpr DType kTypePairs[][2] = {
    {DType::float32, DType::float32},   {DType::float32, DType::bfloat16},
    {DType::float32, DType::float16},   {DType::bfloat16, DType::float32},
    {DType::bfloat16, DType::bfloat16}, {DType::float16, DType::float32},
    {DType::float16, DType::float16}};

inline float rounded(double value, DType dtype) {
  const auto x = static_cast<float>(value);
  if (dtype == DType::float16) return static_cast<float>(float16_value(float16_bits(x)));
  if (dtype != DType::bfloat16 || !std::isfinite(x)) return x;
  const auto bits = std::bit_cast<uint32_t>(x);
  return std::bit_cast<float>((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u);
}

/// A dense tensor that owns its elements. They start as NaN (as integers: -1), so that one which a
/// kernel forgets shows up; the bytes behind the last one must be untouched in the end.
class Buffer {
 public:
  explicit Buffer(std::initializer_list<index_t> shape, DType dtype = DType::float32)
      : shape_(nullptr, dtype, shape), bytes_(size() * size_of(dtype) + kGuard, 0xff) {}
  template <class T>
  Buffer(std::initializer_list<index_t> shape, DType dtype, const std::vector<T>& values)
      : Buffer(shape, dtype) {
    for (index_t i = 0; i < size(); ++i) set(i, values[i]);
  }
  Buffer(const Buffer&) = default;
  ~Buffer() {
    EXPECT_TRUE(std::all_of(bytes_.end() - kGuard, bytes_.end(), [](int b) { return b == 0xff; }))
        << "written behind the end of " << shape_string(shape_);
  }

  TensorView view() const {
    TensorView view = shape_;
    view.data = const_cast<uint8_t*>(bytes_.data());  // the library has no views of constants
    return view;
  }
  index_t size() const { return shape_.numel(); }
  DType dtype() const { return shape_.dtype; }
  double operator[](index_t i) const {
    switch (dtype()) {
      case DType::float32:
        return view().as<float>()[i];
      case DType::bfloat16:
        return std::bit_cast<float>(uint32_t{view().as<uint16_t>()[i]} << 16);
      case DType::float16:
        return float16_value(view().as<uint16_t>()[i]);
      case DType::int64:
        return static_cast<double>(view().as<int64_t>()[i]);
      case DType::int32:
        return view().as<int32_t>()[i];
      case DType::boolean:
        return view().as<uint8_t>()[i];
      default:
        ADD_FAILURE() << "a buffer of " << name_of(dtype());
        return NAN;
    }
  }
  template <class T>
  void set(index_t i, T value) {
    switch (dtype()) {
      case DType::float32:
        view().as<float>()[i] = static_cast<float>(value);
        break;
      case DType::bfloat16:
        view().as<uint16_t>()[i] =
            static_cast<uint16_t>(std::bit_cast<uint32_t>(rounded(value, dtype())) >> 16);
        break;
      case DType::float16:
        view().as<uint16_t>()[i] = float16_bits(static_cast<float>(value));
        break;
      case DType::int64:
        view().as<int64_t>()[i] = static_cast<int64_t>(value);
        break;
      case DType::int32:
        view().as<int32_t>()[i] = static_cast<int32_t>(value);
        break;
      case DType::boolean:
        view().as<uint8_t>()[i] = value != T{};
        break;
      default:
        ADD_FAILURE() << "a buffer of " << name_of(dtype());
    }
  }
  bool operator==(const Buffer& other) const { return bytes_ == other.bytes_; }

 private:
  static constexpr size_t kGuard = 64;
  TensorView shape_;
  std::vector<uint8_t> bytes_;
};

/// Uniform in (-scale, scale), the same on every platform.
inline Buffer random(std::initializer_list<index_t> shape, uint64_t seed,
                     DType dtype = DType::float32, double scale = 1.0) {
  Buffer buffer(shape, dtype);
  std::mt19937_64 engine(seed);
  for (index_t i = 0; i < buffer.size(); ++i)
    buffer.set(i, scale * (static_cast<double>(engine() >> 11) * 0x1p-52 - 1.0));
  return buffer;
}

/// A matrix in double; what the references are made of.
struct Matrix {
  index_t rows, columns;
  std::vector<double> values;

  Matrix(index_t rows, index_t columns)
      : rows(rows), columns(columns), values(static_cast<size_t>(rows * columns)) {}
  /// The elements of a buffer, row by row.
  Matrix(const Buffer& buffer, index_t rows, index_t columns) : Matrix(rows, columns) {
    for (index_t i = 0; i < rows * columns; ++i) values[i] = buffer[i];
  }
  explicit Matrix(const Buffer& b) : Matrix(b, b.view().shape[0], b.size() / b.view().shape[0]) {}

  double& operator()(index_t r, index_t c) { return values[r * columns + c]; }
  double operator()(index_t r, index_t c) const { return values[r * columns + c]; }
  Matrix transposed() const {
    Matrix t(columns, rows);
    for (index_t r = 0; r < rows; ++r)
      for (index_t c = 0; c < columns; ++c) t(c, r) = (*this)(r, c);
    return t;
  }
  Matrix operator*(const Matrix& b) const {
    Matrix product(rows, b.columns);
    for (index_t r = 0; r < rows; ++r)
      for (index_t k = 0; k < columns; ++k)
        for (index_t c = 0; c < b.columns; ++c) product(r, c) += (*this)(r, k) * b(k, c);
    return product;
  }
  Matrix plus_to_each_row(const Buffer& row) const {
    Matrix sum = *this;
    for (index_t r = 0; r < rows; ++r)
      for (index_t c = 0; c < columns; ++c) sum(r, c) += row[c];
    return sum;
  }
  Matrix sum_of_rows() const {
    Matrix ones(1, rows);
    std::fill(ones.values.begin(), ones.values.end(), 1.0);
    return ones * *this;
  }
};

/// Every element within `tolerance` times the largest magnitude of the truth.
inline void expect_close(const Buffer& got, const std::vector<double>& truth, double tolerance,
                         const char* name) {
  ASSERT_EQ(got.size(), static_cast<index_t>(truth.size())) << name;
  double scale = 0.0;
  for (double t : truth) scale = std::max(scale, std::abs(t));
  for (index_t i = 0; i < got.size(); ++i) {
    ASSERT_LE(std::abs(got[i] - truth[i]), tolerance * scale)
        << name << "[" << i << "] is " << got[i] << ", expected " << truth[i] << " (relative to "
        << scale << ": " << std::abs(got[i] - truth[i]) / scale << ")";
  }
}
inline void expect_close(const Buffer& got, const Matrix& truth, double tolerance,
                         const char* name) {
  expect_close(got, truth.values, tolerance, name);
}

/// What sums of `depth` products may be off by, relative to the largest: some roundings of float32
/// for each, growing like a random walk; or so many roundings to 16 bits on the way to the result.
inline double tolerance_of(DType dtype, index_t depth, int roundings = 1) {
  if (dtype == DType::bfloat16) return roundings * 0x1p-8;
  if (dtype == DType::float16) return roundings * 0x1p-11;
  return 1e-6 * std::sqrt(static_cast<double>(depth));
}

/// Runs `body` with every instruction set of this machine and under the emulator, where that is
/// built in; then goes back to the one before.
template <class Body>
void on_every_isa(Body&& body) {
  struct Restore {
    Isa before = current_isa();
    ~Restore() { set_isa(before); }
  } restore;
  for (Isa isa : available_isas()) {
    SCOPED_TRACE(name_of(isa));
    set_isa(isa);
    body();
  }
}

/// The same for those that have kernels of `dtype`.
template <class Body>
void on_every_isa_for(DType dtype, Body&& body) {
  on_every_isa([&] {
    if (dtype != DType::float16 || current_isa() == Isa::simt) body();
  });
}

template <class Body>
void on_every_isa_for(DType a, DType b, Body&& body) {
  on_every_isa_for(a == DType::float16 ? a : b, body);
}

/// `run` returns a std::vector<Buffer>; one thread and two must give the same bits, on every
/// instruction set.
template <class Run>
void expect_same_bits_for_one_and_two_threads(Run&& run) {
  struct Restore {
    int before = num_threads();
    ~Restore() { set_num_threads(before); }
  } restore;
  on_every_isa([&] {
    set_num_threads(1);
    const std::vector<Buffer> one = run();
    set_num_threads(2);
    const std::vector<Buffer> two = run();
    for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(one[i] == two[i]) << "output " << i;
  });
}

/// The message of the InvalidArgument that `body` throws; otherwise what happened instead.
template <class Error = InvalidArgument, class Body>
std::string message_of(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  } catch (const std::exception& error) {
    return std::string("(another exception) ") + error.what();
  }
  return "(nothing was thrown)";
}

/// activation(x) and its derivative, the latter as a difference quotient.
inline double activate(Activation kind, double x) {
  switch (kind) {
    case Activation::none:
      return x;
    case Activation::relu:
      return std::max(x, 0.0);
    case Activation::gelu:
      return 0.5 * x * std::erfc(-x * std::sqrt(0.5));
    case Activation::gelu_tanh:
      return 0.5 * x *
             (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Activation::silu:
      return x / (1.0 + std::exp(-x));
  }
  return NAN;
}
inline double slope(Activation kind, double x) {
  constexpr double h = 1e-5;
  return (activate(kind, x + h) - activate(kind, x - h)) / (2.0 * h);
}

}  // namespace fusedlm::test
