#include <algorithm>

#include "compiler/ir/infer.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::ir {
namespace {

InferResult Reduce(const TensorType& x, const AttrMap& attrs) {
  const std::vector<int64_t>& axes = Get<std::vector<int64_t>>(attrs, "axes");
  if (axes.empty()) return Mismatch("axes", "at least one axis", "[]");
  std::vector<bool> reduced(x.shape.size(), false);
  for (int64_t axis : axes) {
    FF_RETURN_IF_ERROR(RequireAxis("axes", axis, x.shape.size()));
    if (reduced[axis]) return Mismatch("axes", "each axis at most once", AttrToString(axes));
    reduced[axis] = true;
  }
  const bool keepdims = Get<bool>(attrs, "keepdims");
  Dims shape;
  for (size_t i = 0; i < x.shape.size(); ++i) {
    if (!reduced[i]) {
      shape.push_back(x.shape[i]);
    } else if (keepdims) {
      shape.push_back(1);
    }
  }
  return std::vector<Type>{TensorType{x.dtype, std::move(shape)}};
}

}  // namespace

InferResult InferReduceNumeric(Operands operands, const AttrMap& attrs) {
  FF_RETURN_IF_ERROR(RequireNumeric("x", operands[0].tensor()));
  return Reduce(operands[0].tensor(), attrs);
}

InferResult InferReduceFloat(Operands operands, const AttrMap& attrs) {
  FF_RETURN_IF_ERROR(RequireFloat("x", operands[0].tensor()));
  return Reduce(operands[0].tensor(), attrs);
}

InferResult InferCumsum(Operands operands, const AttrMap& attrs) {
  const TensorType& x = operands[0].tensor();
  FF_RETURN_IF_ERROR(RequireNumeric("x", x));
  FF_RETURN_IF_ERROR(RequireAxis("axis", Get<int64_t>(attrs, "axis"), x.shape.size()));
  return std::vector<Type>{x};
}

InferResult InferSoftmax(Operands operands, const AttrMap& attrs) {
  const TensorType& x = operands[0].tensor();
  FF_RETURN_IF_ERROR(RequireFloat("x", x));
  FF_RETURN_IF_ERROR(RequireAxis("axis", Get<int64_t>(attrs, "axis"), x.shape.size()));
  return std::vector<Type>{x};
}

InferResult InferMatmul(Operands operands, const AttrMap&) {
  const TensorType& a = operands[0].tensor();
  const TensorType& b = operands[1].tensor();
  FF_RETURN_IF_ERROR(RequireFloat("a", a));
  FF_RETURN_IF_ERROR(RequireFloat("b", b));
  if (a.shape.size() < 2) return Mismatch("a", "rank 2 or more", a);
  if (b.shape.size() < 2) return Mismatch("b", "rank 2 or more", b);
  const DimExpr& m = a.shape[a.shape.size() - 2];
  const DimExpr& k = a.shape.back();
  if (b.shape[b.shape.size() - 2] != k) return Mismatch("b", k.ToString() + " rows, as a has columns", b);
  FF_ASSIGN_OR_RETURN(Dims shape,
                      Broadcast(Dims(a.shape.begin(), a.shape.end() - 2), Dims(b.shape.begin(), b.shape.end() - 2)));
  shape.push_back(m);
  shape.push_back(b.shape.back());
  return std::vector<Type>{TensorType{a.dtype, std::move(shape)}};
}

InferResult InferLinear(Operands operands, const AttrMap&) {
  const TensorType& x = operands[0].tensor();
  const TensorType& weight = operands[1].tensor();
  FF_RETURN_IF_ERROR(RequireFloat("x", x));
  FF_RETURN_IF_ERROR(RequireFloat("weight", weight));
  if (x.shape.empty()) return Mismatch("x", "rank 1 or more", x);
  FF_RETURN_IF_ERROR(RequireRank("weight", weight, 2));
  FF_RETURN_IF_ERROR(RequireShape("weight", weight, {weight.shape[0], x.shape.back()}));
  FF_RETURN_IF_ERROR(RequireChannelVector("bias", operands, 2, weight.shape[0]));
  Dims shape = x.shape;
  shape.back() = weight.shape[0];
  return std::vector<Type>{TensorType{x.dtype, std::move(shape)}};
}

InferResult InferNorm(Operands operands, const AttrMap& attrs) {
  const TensorType& x = operands[0].tensor();
  FF_RETURN_IF_ERROR(RequireFloat("x", x));
  if (x.shape.empty()) return Mismatch("x", "rank 1 or more", x);
  FF_RETURN_IF_ERROR(RequireChannelVector("weight", operands, 1, x.shape.back()));
  FF_RETURN_IF_ERROR(RequireChannelVector("bias", operands, 2, x.shape.back()));
  FF_RETURN_IF_ERROR(RequireEps(attrs));
  return std::vector<Type>{x};
}

}  // namespace flashflow::ir
