#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <string>

#include "absl/strings/str_join.h"
#include "compiler/ir/infer.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::ir {
namespace {

absl::Status RequireOneOf(std::string_view what, const AttrMap& attrs, std::initializer_list<std::string_view> names) {
  const std::string& name = Get<std::string>(attrs, what);
  if (std::ranges::find(names, name) != names.end()) return absl::OkStatus();
  return Mismatch(what, absl::StrJoin(names, ", "), QuoteString(name));
}

absl::Status RequireClip(const AttrMap& attrs) {
  const double clip = Get<double>(attrs, "clip");
  return clip > 0 ? absl::OkStatus() : Mismatch("clip", "a number above 0, or inf", AttrToString(clip));
}

// Products of two codes are 127^2 at most: sums of so many fit 32 bits.
constexpr int64_t kMaxCodes = int64_t{1} << 17;

// The scales and least values of groups of 4-bit codes, for rows of k elements; nullopt if groups do not divide k.
std::optional<TensorType> GroupScales(Dims rows, const DimExpr& k) {
  const std::optional<DimExpr> groups = k.DividedBy(kCodeGroup);
  if (!groups.has_value()) return std::nullopt;
  rows.push_back(*groups);
  rows.push_back(2);
  return TensorType{DType::kF16, rows};
}

// Whether fused_linear's weight is of codes of groups.
bool HasGroups(Operands operands) { return IsGiven(operands, 6) && operands[6].tensor().dtype == DType::kF16; }

// The weight that the codes of groups stand for.
absl::StatusOr<TensorType> WeightOfGroups(Operands operands) {
  const TensorType& codes = operands[1].tensor();
  FF_RETURN_IF_ERROR(RequireRank("weight", codes, 2));
  const DimExpr k = codes.shape[1] * DimExpr(2);
  const std::optional<TensorType> scale = GroupScales({codes.shape[0]}, k);
  if (!scale.has_value()) return Mismatch("weight", absl::StrCat("rows of a multiple of ", kCodeGroup / 2), codes);
  if (operands[6].tensor() != *scale) return Mismatch("weight_scale", Type(*scale).ToString(), operands[6].tensor());
  return TensorType{DType::kF32, {codes.shape[0], k}};
}

// What fused_linear wants of a weight of codes, and of its scales.
absl::Status RequireCodes(Operands operands) {
  const TensorType& weight = operands[1].tensor();
  if (!IsGiven(operands, 6)) return Mismatch("weight_scale", "a scale for each row, as the weight is of i8", "_");
  FF_RETURN_IF_ERROR(RequireRank("weight", weight, 2));
  if (weight.shape[1].constant().value_or(0) > kMaxCodes) {
    return Mismatch("weight", absl::StrCat("rows of ", kMaxCodes, " codes at most"), weight);
  }
  const TensorType& scale = operands[6].tensor();
  if (scale != TensorType{DType::kF32, {weight.shape[0]}}) {
    return Mismatch("weight_scale", Type(TensorType{DType::kF32, {weight.shape[0]}}).ToString(), scale);
  }
  return absl::OkStatus();
}

}  // namespace

InferResult InferRope(Operands operands, const AttrMap&) {
  const TensorType& x = operands[0].tensor();
  FF_RETURN_IF_ERROR(RequireFloat("x", x));
  if (x.shape.empty() || !x.shape.back().DividedBy(2).has_value()) return Mismatch("x", "an even last dim", x);
  for (const size_t i : {1, 2}) {
    const std::string_view what = i == 1 ? "cos" : "sin";
    const TensorType& angle = operands[i].tensor();
    FF_RETURN_IF_ERROR(RequireFloat(what, angle));
    const absl::StatusOr<Dims> shape = Broadcast(x.shape, angle.shape);
    if (!shape.ok() || *shape != x.shape || angle.shape.empty() || angle.shape.back() != x.shape.back()) {
      return Mismatch(what, absl::StrCat("as many channels as ", DimsToString(x.shape), ", and to broadcast to it"),
                      angle);
    }
  }
  return std::vector<Type>{x};
}

InferResult InferFusedLinear(Operands operands, const AttrMap& attrs) {
  FF_RETURN_IF_ERROR(RequireOneOf("norm", attrs, {"none", "layer_norm", "rms_norm"}));
  FF_RETURN_IF_ERROR(RequireOneOf("activation", attrs, {"none", "gelu", "gelu_tanh", "silu", "relu"}));
  FF_RETURN_IF_ERROR(RequireEps(attrs));
  FF_RETURN_IF_ERROR(RequireClip(attrs));
  std::vector<Type> linear(operands.begin(), operands.begin() + std::min<size_t>(3, operands.size()));
  if (operands[1].tensor().dtype == DType::kI8 && HasGroups(operands)) {
    FF_ASSIGN_OR_RETURN(linear[1], WeightOfGroups(operands));
    if (!std::isinf(Get<double>(attrs, "clip"))) {
      return Mismatch("clip", "inf, as x has no codes", AttrToString(Get<double>(attrs, "clip")));
    }
  } else if (operands[1].tensor().dtype == DType::kI8) {
    FF_RETURN_IF_ERROR(RequireCodes(operands));
    linear[1] = TensorType{DType::kF32, operands[1].tensor().shape};
  } else if (IsGiven(operands, 6)) {
    return Mismatch("weight_scale", "none, as the weight is not of i8", "a value");
  } else if (!std::isinf(Get<double>(attrs, "clip"))) {
    return Mismatch("clip", "inf, as the weight is not of i8", AttrToString(Get<double>(attrs, "clip")));
  }
  FF_ASSIGN_OR_RETURN(std::vector<Type> types, InferLinear(linear, attrs));
  TensorType y = types[0].tensor();
  y.dtype = Get<DType>(attrs, "dtype");
  if (!IsFloat(y.dtype)) return Mismatch("dtype", "a float", DTypeName(y.dtype));
  if (Get<bool>(attrs, "gated")) {
    const std::optional<DimExpr> half = y.shape.back().DividedBy(2);
    if (!half.has_value()) return Mismatch("weight", "an even number of rows, as it is gated", operands[1].tensor());
    y.shape.back() = *half;
  }
  if (IsGiven(operands, 3) && operands[3].tensor() != y) {
    return Mismatch("residual", Type(y).ToString(), operands[3].tensor());
  }
  const DimExpr& channels = operands[0].tensor().shape.back();
  FF_RETURN_IF_ERROR(RequireChannelVector("norm_weight", operands, 4, channels));
  FF_RETURN_IF_ERROR(RequireChannelVector("norm_bias", operands, 5, channels));
  const std::string& norm = Get<std::string>(attrs, "norm");
  if (norm == "none" && IsGiven(operands, 4)) return Mismatch("norm_weight", "none, as norm is none", "a value");
  if (norm != "layer_norm" && IsGiven(operands, 5)) {
    return Mismatch("norm_bias", absl::StrCat("none, as norm is ", norm), "a value");
  }
  return std::vector<Type>{y};
}

InferResult InferAddNorm(Operands operands, const AttrMap& attrs) {
  FF_RETURN_IF_ERROR(RequireOneOf("norm", attrs, {"layer_norm", "rms_norm"}));
  const TensorType& x = operands[0].tensor();
  if (operands[1].tensor() != x) return Mismatch("residual", Type(x).ToString(), operands[1].tensor());
  if (Get<std::string>(attrs, "norm") == "rms_norm" && IsGiven(operands, 3)) {
    return Mismatch("bias", "none, as norm is rms_norm", "a value");
  }
  std::vector<Type> norm = {operands[0]};
  for (size_t i = 2; i < operands.size(); ++i) norm.push_back(operands[i]);
  FF_RETURN_IF_ERROR(InferNorm(norm, attrs).status());
  return std::vector<Type>{x, x};
}

InferResult InferQuantize(Operands operands, const AttrMap& attrs) {
  const TensorType& x = operands[0].tensor();
  FF_RETURN_IF_ERROR(RequireFloat("x", x));
  if (x.shape.empty()) return Mismatch("x", "rank 1 or more", x);
  FF_RETURN_IF_ERROR(RequireClip(attrs));
  const Dims rows(x.shape.begin(), x.shape.end() - 1);
  const int64_t group = Get<int64_t>(attrs, "group");
  if (group == 0) return std::vector<Type>{TensorType{DType::kI8, x.shape}, TensorType{DType::kF32, rows}};
  if (group != kCodeGroup) return Mismatch("group", absl::StrCat("0 or ", kCodeGroup), absl::StrCat(group));
  if (!std::isinf(Get<double>(attrs, "clip"))) {
    return Mismatch("clip", "inf, as it has groups", AttrToString(Get<double>(attrs, "clip")));
  }
  const std::optional<TensorType> scales = GroupScales(rows, x.shape.back());
  if (!scales.has_value()) return Mismatch("x", absl::StrCat("a last dim that is a multiple of ", kCodeGroup), x);
  Dims codes = x.shape;
  codes.back() = *codes.back().DividedBy(2);
  return std::vector<Type>{TensorType{DType::kI8, codes}, *scales};
}

}  // namespace flashflow::ir
