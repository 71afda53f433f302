#include <algorithm>

#include "compiler/ir/infer.h"

namespace flashflow::ir {
namespace {

InferResult Reduce(const TensorType& x, const AttrMap& attrs) {
  const std::vector<int64_t>& axes = Get<std::vector<int64_t>>(attrs, "axes");
  if (axes.empty()) return Mismatch("axes", "at least one axis", "[]");
  std::vector<bool> reduced(x.shape.size(), false);
  for (int64_t axis : axes) {
    if (absl::Status s = RequireAxis("axes", axis, x.shape.size()); !s.ok()) return s;
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

// An optional float vector of one entry a channel.
absl::Status RequireChannelVector(std::string_view what, Operands operands, size_t i, const DimExpr& channels) {
  if (!IsGiven(operands, i)) return absl::OkStatus();
  if (absl::Status s = RequireFloat(what, operands[i].tensor()); !s.ok()) return s;
  return RequireShape(what, operands[i].tensor(), {channels});
}

}  // namespace

InferResult InferReduceNumeric(Operands operands, const AttrMap& attrs) {
  if (absl::Status s = RequireNumeric("x", operands[0].tensor()); !s.ok()) return s;
  return Reduce(operands[0].tensor(), attrs);
}

InferResult InferReduceFloat(Operands operands, const AttrMap& attrs) {
  if (absl::Status s = RequireFloat("x", operands[0].tensor()); !s.ok()) return s;
  return Reduce(operands[0].tensor(), attrs);
}

InferResult InferSoftmax(Operands operands, const AttrMap& attrs) {
  const TensorType& x = operands[0].tensor();
  if (absl::Status s = RequireFloat("x", x); !s.ok()) return s;
  if (absl::Status s = RequireAxis("axis", Get<int64_t>(attrs, "axis"), x.shape.size()); !s.ok()) return s;
  return std::vector<Type>{x};
}

InferResult InferMatmul(Operands operands, const AttrMap&) {
  const TensorType& a = operands[0].tensor();
  const TensorType& b = operands[1].tensor();
  if (absl::Status s = RequireFloat("a", a); !s.ok()) return s;
  if (absl::Status s = RequireFloat("b", b); !s.ok()) return s;
  if (a.shape.size() < 2) return Mismatch("a", "rank 2 or more", a);
  if (b.shape.size() < 2) return Mismatch("b", "rank 2 or more", b);
  const DimExpr& m = a.shape[a.shape.size() - 2];
  const DimExpr& k = a.shape.back();
  if (b.shape[b.shape.size() - 2] != k) return Mismatch("b", k.ToString() + " rows, as a has columns", b);
  absl::StatusOr<Dims> shape =
      Broadcast(Dims(a.shape.begin(), a.shape.end() - 2), Dims(b.shape.begin(), b.shape.end() - 2));
  if (!shape.ok()) return shape.status();
  shape->push_back(m);
  shape->push_back(b.shape.back());
  return std::vector<Type>{TensorType{a.dtype, *std::move(shape)}};
}

InferResult InferLinear(Operands operands, const AttrMap&) {
  const TensorType& x = operands[0].tensor();
  const TensorType& weight = operands[1].tensor();
  if (absl::Status s = RequireFloat("x", x); !s.ok()) return s;
  if (absl::Status s = RequireFloat("weight", weight); !s.ok()) return s;
  if (x.shape.empty()) return Mismatch("x", "rank 1 or more", x);
  if (absl::Status s = RequireRank("weight", weight, 2); !s.ok()) return s;
  if (absl::Status s = RequireShape("weight", weight, {weight.shape[0], x.shape.back()}); !s.ok()) return s;
  if (absl::Status s = RequireChannelVector("bias", operands, 2, weight.shape[0]); !s.ok()) return s;
  Dims shape = x.shape;
  shape.back() = weight.shape[0];
  return std::vector<Type>{TensorType{x.dtype, std::move(shape)}};
}

InferResult InferNorm(Operands operands, const AttrMap& attrs) {
  const TensorType& x = operands[0].tensor();
  if (absl::Status s = RequireFloat("x", x); !s.ok()) return s;
  if (x.shape.empty()) return Mismatch("x", "rank 1 or more", x);
  if (absl::Status s = RequireChannelVector("weight", operands, 1, x.shape.back()); !s.ok()) return s;
  if (absl::Status s = RequireChannelVector("bias", operands, 2, x.shape.back()); !s.ok()) return s;
  if (const double eps = Get<double>(attrs, "eps"); !(eps >= 0))
    return Mismatch("eps", "at least 0", AttrToString(eps));
  return std::vector<Type>{x};
}

}  // namespace flashflow::ir
