#include "compiler/interpreter/tensor.h"

#include <limits>
#include <utility>

#include "absl/log/check.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compiler/ir/float_convert.h"

namespace flashflow::interpreter {

int64_t NumElements(const Shape& shape) {
  int64_t count = 1;
  for (int64_t dim : shape) count *= dim;
  return count;
}

std::string ShapeToString(const Shape& shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

Tensor Tensor::Zeros(DType dtype, Shape shape) {
  Tensor tensor{.dtype = dtype, .shape = std::move(shape), .floats = {}, .ints = {}};
  if (IsFloat(dtype)) {
    tensor.floats.resize(tensor.NumElements());
  } else {
    tensor.ints.resize(tensor.NumElements());
  }
  return tensor;
}

Tensor Tensor::Floats(Shape shape, std::vector<double> values, DType dtype) {
  CHECK(IsFloat(dtype));
  CHECK_EQ(interpreter::NumElements(shape), static_cast<int64_t>(values.size()));
  return {.dtype = dtype, .shape = std::move(shape), .floats = std::move(values), .ints = {}};
}

Tensor Tensor::Ints(Shape shape, std::vector<int64_t> values, DType dtype) {
  CHECK(!IsFloat(dtype));
  CHECK_EQ(interpreter::NumElements(shape), static_cast<int64_t>(values.size()));
  return {.dtype = dtype, .shape = std::move(shape), .floats = {}, .ints = std::move(values)};
}

void RoundToDType(Tensor* tensor) {
  for (double& value : tensor->floats) value = RoundTo(tensor->dtype, value);
  for (int64_t& value : tensor->ints) {
    if (tensor->dtype == DType::kI8) value = static_cast<int8_t>(value);
    if (tensor->dtype == DType::kI32) value = static_cast<int32_t>(value);
    if (tensor->dtype == DType::kBool) value = value != 0;
  }
}

Cache Cache::Empty(ir::CacheType type, int64_t num_pages, int64_t page_size) {
  const int64_t elements = type.layers * num_pages * 2 * type.kv_heads * page_size * type.head_dim;
  return {.type = type,
          .num_pages = num_pages,
          .page_size = page_size,
          .data = std::vector<double>(elements, std::numeric_limits<double>::quiet_NaN())};
}

const double* Cache::Slot(int64_t layer, int64_t page, int64_t k_or_v, int64_t head, int64_t offset) const {
  const int64_t slot = (((layer * num_pages + page) * 2 + k_or_v) * type.kv_heads + head) * page_size + offset;
  return data.data() + slot * type.head_dim;
}

double* Cache::Slot(int64_t layer, int64_t page, int64_t k_or_v, int64_t head, int64_t offset) {
  return const_cast<double*>(std::as_const(*this).Slot(layer, page, k_or_v, head, offset));
}

}  // namespace flashflow::interpreter
