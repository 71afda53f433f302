#include "compiler/ir/infer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::ir {

absl::Status Mismatch(std::string_view what, std::string_view wanted, std::string_view got) {
  return absl::InvalidArgumentError(absl::StrCat(what, ": expected ", wanted, ", got ", got));
}

absl::Status Mismatch(std::string_view what, std::string_view wanted, const TensorType& got) {
  return Mismatch(what, wanted, Type(got).ToString());
}

absl::Status RequireFloat(std::string_view what, const TensorType& type) {
  return IsFloat(type.dtype) ? absl::OkStatus() : Mismatch(what, "a float dtype", type);
}

absl::Status RequireNumeric(std::string_view what, const TensorType& type) {
  return type.dtype != DType::kBool ? absl::OkStatus() : Mismatch(what, "a float or integer dtype", type);
}

absl::Status RequireRank(std::string_view what, const TensorType& type, size_t rank) {
  return type.shape.size() == rank ? absl::OkStatus() : Mismatch(what, absl::StrCat("rank ", rank), type);
}

absl::Status RequireShape(std::string_view what, const TensorType& type, const Dims& shape) {
  return type.shape == shape ? absl::OkStatus() : Mismatch(what, absl::StrCat("shape ", DimsToString(shape)), type);
}

absl::Status RequireAxis(std::string_view what, int64_t axis, size_t rank) {
  if (axis >= 0 && axis < static_cast<int64_t>(rank)) return absl::OkStatus();
  return Mismatch(what, absl::StrCat("an axis of a tensor of rank ", rank), absl::StrCat(axis));
}

absl::Status RequireChannelVector(std::string_view what, Operands operands, size_t i, const DimExpr& channels) {
  if (!IsGiven(operands, i)) return absl::OkStatus();
  FF_RETURN_IF_ERROR(RequireFloat(what, operands[i].tensor()));
  return RequireShape(what, operands[i].tensor(), {channels});
}

absl::Status RequireEps(const AttrMap& attrs) {
  const double eps = Get<double>(attrs, "eps");
  return eps >= 0 ? absl::OkStatus() : Mismatch("eps", "at least 0", AttrToString(eps));
}

absl::StatusOr<Dims> Broadcast(const Dims& a, const Dims& b) {
  const Dims& longer = a.size() >= b.size() ? a : b;
  const Dims& shorter = a.size() >= b.size() ? b : a;
  Dims result = longer;
  const size_t offset = longer.size() - shorter.size();
  for (size_t i = 0; i < shorter.size(); ++i) {
    DimExpr& dim = result[offset + i];
    if (dim == DimExpr(1)) {
      dim = shorter[i];
    } else if (shorter[i] != DimExpr(1) && shorter[i] != dim) {
      return absl::InvalidArgumentError(
          absl::StrCat("shapes ", DimsToString(a), " and ", DimsToString(b), " do not broadcast"));
    }
  }
  return result;
}

}  // namespace flashflow::ir
