// What the op files share: invariants of the canonical form, element types, allocation.
// Error messages for users are in snnfast/ops/*.py. The checks here fail only for a call that bypasses those files.
#pragma once
#include <algorithm>
#include <initializer_list>
#include <optional>
#include <vector>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/headeronly/util/Exception.h>

#include "backend.h"

namespace snn {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Dtype dtype_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return Dtype::f32;
    case ScalarType::Half: return Dtype::f16;
    case ScalarType::BFloat16: return Dtype::bf16;
    case ScalarType::Double: return Dtype::f64;
    default: STD_TORCH_CHECK(false, "snnfast: unsupported dtype");
  }
}

inline ScalarType accumulator(const Tensor& x) { return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float; }

inline int32_t shim_dtype(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return aoti_torch_dtype_float32();
    case ScalarType::Half: return aoti_torch_dtype_float16();
    case ScalarType::BFloat16: return aoti_torch_dtype_bfloat16();
    case ScalarType::Double: return aoti_torch_dtype_float64();
    case ScalarType::Int: return aoti_torch_dtype_int32();
    case ScalarType::Char: return aoti_torch_dtype_int8();
    case ScalarType::Byte: return aoti_torch_dtype_uint8();
    default: STD_TORCH_CHECK(false, "snnfast: unsupported dtype");
  }
}

// A contiguous tensor on the device of `like`. Does not use torch::stable::new_empty, which looks up its op by name: that takes 3 us, and a small
// launch has four results.
inline Tensor empty(const Tensor& like, std::initializer_list<int64_t> shape, ScalarType dtype) {
  constexpr size_t most = 4;
  STD_TORCH_CHECK(shape.size() <= most, "snnfast: a result has at most four dimensions");
  int64_t strides[most], stride = 1;
  for (size_t i = shape.size(); i-- > 0; stride *= std::max<int64_t>(1, shape.begin()[i])) strides[i] = stride;
  int32_t device = 0, index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(shape.size()), shape.begin(), strides, shim_dtype(dtype), device, index, &handle));
  Tensor t(handle);
  backend::prepare(t.data_ptr(), t.numel() * int64_t(t.element_size()));
  return t;
}

// [N] of the given dtype, contiguous.
inline void check_vector(const char* name, const Tensor& t, int64_t N, ScalarType dtype) {
  STD_TORCH_CHECK(t.dim() == 1 && t.size(0) == N && t.is_contiguous() && t.scalar_type() == dtype, "snnfast: ", name,
                  " is not a contiguous vector of ", N, " elements of the right dtype");
}

// [rows, N] with contiguous rows.
inline void check_rows(const char* name, const Tensor& t, int64_t rows, int64_t N) {
  STD_TORCH_CHECK(t.dim() == 2 && t.size(0) == rows && t.size(1) == N && (N <= 1 || t.stride(1) == 1), "snnfast: ", name, " is not [", rows, ", ", N,
                  "] with contiguous rows");
}

// x of T steps: [T, N], or [1, N] for a constant current.
inline void check_steps(const Tensor& x, int64_t T) {
  STD_TORCH_CHECK(x.dim() == 2 && T >= 1 && (x.size(0) == T || x.size(0) == 1), "snnfast: x is not [T, N] or [1, N]");
  check_rows("x", x, x.size(0), x.size(1));
}

inline int64_t row_stride(const Tensor& x) { return x.size(0) > 1 ? x.stride(0) : 0; }

// theta: [C], or [K, C] where there are K parameters.
inline void check_pattern(const Tensor& theta, int64_t inner, int64_t N, ScalarType dtype, int64_t K = 1) {
  const int64_t dims = K == 1 ? 1 : 2;
  STD_TORCH_CHECK(theta.dim() == dims && (K == 1 || theta.size(0) == K) && theta.is_contiguous() && theta.scalar_type() == dtype,
                  "snnfast: theta is not a contiguous tensor of ", K, " parameters of the right dtype");
  const int64_t C = theta.size(dims - 1);
  STD_TORCH_CHECK(inner >= 1 && C >= 1 && (C == 1 || N % (C * inner) == 0), "snnfast: theta of ", C, " x ", inner, " does not divide ", N,
                  " elements");
}

// The rule of an equation with `fields` fields, from its numbers.
inline Rule rule_of(const std::vector<double>& numbers, int fields) {
  STD_TORCH_CHECK(numbers.size() == size_t(fields), "snnfast: the rule has ", fields, " numbers, got ", numbers.size());
  Rule rule{};
  std::copy(numbers.begin(), numbers.end(), rule.of);
  return rule;
}

}  // namespace snn
