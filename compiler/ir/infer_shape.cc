#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "compiler/ir/infer.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::ir {
namespace {

// Whether `value` is one of the dtype's values, up to a float's rounding.
bool Representable(double value, DType dtype) {
  if (IsFloat(dtype)) return true;
  if (dtype == DType::kBool) return value == 0 || value == 1;
  const double limit = std::ldexp(1.0, static_cast<int>(8 * DTypeBytes(dtype) - 1));
  return value == std::trunc(value) && value >= -limit && value < limit;
}

bool KnownLess(const DimExpr& a, const DimExpr& b) {
  const std::optional<int64_t> difference = (a - b).constant();
  return difference.has_value() && *difference < 0;
}

}  // namespace

InferResult InferConstant(Operands, const AttrMap& attrs) {
  const DType dtype = Get<DType>(attrs, "dtype");
  const double value = Get<double>(attrs, "value");
  if (!Representable(value, dtype)) {
    return Mismatch("value", absl::StrCat("a value of ", DTypeName(dtype)), AttrToString(value));
  }
  return std::vector<Type>{TensorType{dtype, Get<Dims>(attrs, "shape")}};
}

InferResult InferIota(Operands, const AttrMap& attrs) {
  const TensorType type{Get<DType>(attrs, "dtype"), Get<Dims>(attrs, "shape")};
  if (type.dtype == DType::kBool) return Mismatch("dtype", "a float or integer dtype", "bool");
  FF_RETURN_IF_ERROR(RequireAxis("axis", Get<int64_t>(attrs, "axis"), type.shape.size()));
  return std::vector<Type>{type};
}

InferResult InferReshape(Operands operands, const AttrMap& attrs) {
  const TensorType& x = operands[0].tensor();
  const Dims& shape = Get<Dims>(attrs, "shape");
  const DimExpr elements = NumElements(x.shape);
  if (NumElements(shape) != elements) {
    return Mismatch("shape", absl::StrCat(elements.ToString(), " elements, as x has in ", DimsToString(x.shape)),
                    DimsToString(shape));
  }
  return std::vector<Type>{TensorType{x.dtype, shape}};
}

InferResult InferTranspose(Operands operands, const AttrMap& attrs) {
  const TensorType& x = operands[0].tensor();
  const std::vector<int64_t>& perm = Get<std::vector<int64_t>>(attrs, "perm");
  std::vector<int64_t> sorted = perm;
  std::sort(sorted.begin(), sorted.end());
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (sorted[i] != static_cast<int64_t>(i)) return Mismatch("perm", "each axis once", AttrToString(perm));
  }
  if (perm.size() != x.shape.size()) {
    return Mismatch("perm", absl::StrCat(x.shape.size(), " axes"), AttrToString(perm));
  }
  Dims shape;
  for (int64_t axis : perm) shape.push_back(x.shape[axis]);
  return std::vector<Type>{TensorType{x.dtype, std::move(shape)}};
}

InferResult InferExpand(Operands operands, const AttrMap& attrs) {
  const TensorType& x = operands[0].tensor();
  const Dims& shape = Get<Dims>(attrs, "shape");
  absl::StatusOr<Dims> broadcast = Broadcast(x.shape, shape);
  if (!broadcast.ok() || *broadcast != shape) {
    return Mismatch("shape", absl::StrCat("a shape that ", DimsToString(x.shape), " broadcasts to"),
                    DimsToString(shape));
  }
  return std::vector<Type>{TensorType{x.dtype, shape}};
}

InferResult InferSlice(Operands operands, const AttrMap& attrs) {
  const TensorType& x = operands[0].tensor();
  const int64_t axis = Get<int64_t>(attrs, "axis");
  const int64_t step = Get<int64_t>(attrs, "step");
  const DimExpr& start = Get<DimExpr>(attrs, "start");
  const DimExpr& stop = Get<DimExpr>(attrs, "stop");
  FF_RETURN_IF_ERROR(RequireAxis("axis", axis, x.shape.size()));
  if (step < 1) return Mismatch("step", "at least 1", absl::StrCat(step));
  if (KnownLess(start, 0) || KnownLess(stop, start) || KnownLess(x.shape[axis], stop)) {
    return Mismatch("start and stop", absl::StrCat("0 <= start <= stop <= ", x.shape[axis].ToString()),
                    absl::StrCat(start.ToString(), " and ", stop.ToString()));
  }
  DimExpr length = stop - start;
  if (step > 1) {
    const std::optional<int64_t> constant = length.constant();
    const std::optional<DimExpr> quotient = length.DividedBy(step);
    if (!constant.has_value() && !quotient.has_value()) {
      return Mismatch("step", absl::StrCat("a divisor of the length ", length.ToString()), absl::StrCat(step));
    }
    length = constant.has_value() ? DimExpr(*constant / step + (*constant % step != 0)) : *quotient;
  }
  Dims shape = x.shape;
  shape[axis] = std::move(length);
  return std::vector<Type>{TensorType{x.dtype, std::move(shape)}};
}

InferResult InferConcat(Operands operands, const AttrMap& attrs) {
  TensorType result = operands[0].tensor();
  const int64_t axis = Get<int64_t>(attrs, "axis");
  FF_RETURN_IF_ERROR(RequireAxis("axis", axis, result.shape.size()));
  for (size_t i = 1; i < operands.size(); ++i) {
    const TensorType& x = operands[i].tensor();
    const std::string what = absl::StrCat("operand ", i);
    if (x.dtype != result.dtype) return Mismatch(what, DTypeName(result.dtype), x);
    FF_RETURN_IF_ERROR(RequireRank(what, x, result.shape.size()));
    Dims wanted = result.shape;
    wanted[axis] = x.shape[axis];
    FF_RETURN_IF_ERROR(RequireShape(what, x, wanted));
    result.shape[axis] = result.shape[axis] + x.shape[axis];
  }
  return std::vector<Type>{std::move(result)};
}

InferResult InferEmbedding(Operands operands, const AttrMap& attrs) {
  const TensorType& table = operands[0].tensor();
  const TensorType& ids = operands[1].tensor();
  const DType dtype = Get<DType>(attrs, "dtype");
  FF_RETURN_IF_ERROR(RequireRank("table", table, 2));
  if (table.dtype == DType::kI8) {
    const TensorType scale = {DType::kF32, {table.shape[0]}};
    if (!IsGiven(operands, 2)) return Mismatch("scale", "a scale for each row, as the table is of i8", "_");
    if (operands[2].tensor() != scale) return Mismatch("scale", Type(scale).ToString(), operands[2].tensor());
  } else {
    FF_RETURN_IF_ERROR(RequireFloat("table", table));
    if (IsGiven(operands, 2)) return Mismatch("scale", "none, as the table is not of i8", "a value");
  }
  if (ids.dtype != DType::kI32 && ids.dtype != DType::kI64) return Mismatch("ids", "i32 or i64", ids);
  if (!IsFloat(dtype)) return Mismatch("dtype", "a float dtype", DTypeName(dtype));
  Dims shape = ids.shape;
  shape.push_back(table.shape[1]);
  return std::vector<Type>{TensorType{dtype, std::move(shape)}};
}

InferResult InferGatherRows(Operands operands, const AttrMap&) {
  const TensorType& x = operands[0].tensor();
  const TensorType& rows = operands[1].tensor();
  if (x.shape.empty()) return Mismatch("x", "rank 1 or more", x);
  if (rows.dtype != DType::kI32) return Mismatch("rows", "i32", rows);
  FF_RETURN_IF_ERROR(RequireRank("rows", rows, 1));
  Dims shape = x.shape;
  shape[0] = rows.shape[0];
  return std::vector<Type>{TensorType{x.dtype, std::move(shape)}};
}

InferResult InferIndex(Operands operands, const AttrMap&) {
  const TensorType& x = operands[0].tensor();
  const size_t indices = operands.size() - 1;
  if (indices > x.shape.size()) {
    return Mismatch("indices", absl::StrCat(x.shape.size(), " at most, as x has axes"), absl::StrCat(indices));
  }
  Dims shape;
  for (size_t i = 1; i < operands.size(); ++i) {
    const TensorType& index = operands[i].tensor();
    if (index.dtype != DType::kI32 && index.dtype != DType::kI64) return Mismatch("indices", "i32 or i64", index);
    FF_ASSIGN_OR_RETURN(shape, Broadcast(shape, index.shape));
  }
  shape.insert(shape.end(), x.shape.begin() + static_cast<int64_t>(indices), x.shape.end());
  return std::vector<Type>{TensorType{x.dtype, std::move(shape)}};
}

}  // namespace flashflow::ir
