#include "compiler/ir/infer.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::ir {
namespace {

// Both operands of one dtype, broadcast to one shape; that type.
absl::StatusOr<TensorType> InferSameDType(Operands operands) {
  const TensorType& a = operands[0].tensor();
  const TensorType& b = operands[1].tensor();
  if (a.dtype != b.dtype) return Mismatch("b", DTypeName(a.dtype), b);
  FF_ASSIGN_OR_RETURN(Dims shape, Broadcast(a.shape, b.shape));
  return TensorType{a.dtype, std::move(shape)};
}

InferResult Comparison(Operands operands) {
  FF_ASSIGN_OR_RETURN(TensorType type, InferSameDType(operands));
  return std::vector<Type>{TensorType{DType::kBool, std::move(type.shape)}};
}

}  // namespace

InferResult InferFloatUnary(Operands operands, const AttrMap&) {
  FF_RETURN_IF_ERROR(RequireFloat("x", operands[0].tensor()));
  return std::vector<Type>{operands[0]};
}

InferResult InferNumericUnary(Operands operands, const AttrMap&) {
  FF_RETURN_IF_ERROR(RequireNumeric("x", operands[0].tensor()));
  return std::vector<Type>{operands[0]};
}

InferResult InferGelu(Operands operands, const AttrMap& attrs) {
  const std::string& approximate = Get<std::string>(attrs, "approximate");
  if (approximate != "none" && approximate != "tanh") {
    return Mismatch("approximate", "\"none\" or \"tanh\"", QuoteString(approximate));
  }
  return InferFloatUnary(operands, attrs);
}

InferResult InferCast(Operands operands, const AttrMap& attrs) {
  return std::vector<Type>{TensorType{Get<DType>(attrs, "dtype"), operands[0].tensor().shape}};
}

InferResult InferNumericBinary(Operands operands, const AttrMap&) {
  FF_RETURN_IF_ERROR(RequireNumeric("a", operands[0].tensor()));
  FF_ASSIGN_OR_RETURN(TensorType type, InferSameDType(operands));
  return std::vector<Type>{std::move(type)};
}

InferResult InferFloatBinary(Operands operands, const AttrMap& attrs) {
  FF_RETURN_IF_ERROR(RequireFloat("a", operands[0].tensor()));
  return InferNumericBinary(operands, attrs);
}

InferResult InferEquality(Operands operands, const AttrMap&) { return Comparison(operands); }

InferResult InferOrdering(Operands operands, const AttrMap&) {
  FF_RETURN_IF_ERROR(RequireNumeric("a", operands[0].tensor()));
  return Comparison(operands);
}

InferResult InferLogical(Operands operands, const AttrMap&) {
  if (operands[0].tensor().dtype != DType::kBool) return Mismatch("a", "bool", operands[0].tensor());
  if (operands.size() == 1) return std::vector<Type>{operands[0]};
  return Comparison(operands);
}

InferResult InferWhere(Operands operands, const AttrMap&) {
  const TensorType& condition = operands[0].tensor();
  if (condition.dtype != DType::kBool) return Mismatch("condition", "bool", condition);
  FF_ASSIGN_OR_RETURN(TensorType type, InferSameDType(operands.subspan(1)));
  FF_ASSIGN_OR_RETURN(Dims shape, Broadcast(condition.shape, type.shape));
  return std::vector<Type>{TensorType{type.dtype, std::move(shape)}};
}

}  // namespace flashflow::ir
