// Type inference of the op table's rows, one function for each rule.
//
// Called by InferTypes, which has checked the operands' number and kind (tensor or cache) and the attributes' names and
// kinds. Errors name the operand or attribute, what was wanted and what came.
#ifndef COMPILER_IR_INFER_H_
#define COMPILER_IR_INFER_H_

#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compiler/ir/attr.h"
#include "compiler/ir/type.h"

namespace flashflow::ir {

using InferResult = absl::StatusOr<std::vector<Type>>;
using Operands = absl::Span<const Type>;

// infer_elementwise.cc
InferResult InferFloatUnary(Operands operands, const AttrMap& attrs);    // float in, same type out
InferResult InferNumericUnary(Operands operands, const AttrMap& attrs);  // float or integer in, same type out
InferResult InferGelu(Operands operands, const AttrMap& attrs);
InferResult InferCast(Operands operands, const AttrMap& attrs);
InferResult InferFloatBinary(Operands operands, const AttrMap& attrs);
InferResult InferNumericBinary(Operands operands, const AttrMap& attrs);
InferResult InferEquality(Operands operands, const AttrMap& attrs);  // any dtype -> bool
InferResult InferOrdering(Operands operands, const AttrMap& attrs);  // float or integer -> bool
InferResult InferLogical(Operands operands, const AttrMap& attrs);   // bool -> bool, one or two operands
InferResult InferWhere(Operands operands, const AttrMap& attrs);

// infer_shape.cc
InferResult InferConstant(Operands operands, const AttrMap& attrs);
InferResult InferIota(Operands operands, const AttrMap& attrs);
InferResult InferReshape(Operands operands, const AttrMap& attrs);
InferResult InferTranspose(Operands operands, const AttrMap& attrs);
InferResult InferExpand(Operands operands, const AttrMap& attrs);
InferResult InferSlice(Operands operands, const AttrMap& attrs);
InferResult InferConcat(Operands operands, const AttrMap& attrs);
InferResult InferEmbedding(Operands operands, const AttrMap& attrs);
InferResult InferGatherRows(Operands operands, const AttrMap& attrs);
InferResult InferIndex(Operands operands, const AttrMap& attrs);

// infer_contraction.cc
InferResult InferReduceNumeric(Operands operands, const AttrMap& attrs);
InferResult InferReduceFloat(Operands operands, const AttrMap& attrs);
InferResult InferCumsum(Operands operands, const AttrMap& attrs);
InferResult InferSoftmax(Operands operands, const AttrMap& attrs);
InferResult InferMatmul(Operands operands, const AttrMap& attrs);
InferResult InferLinear(Operands operands, const AttrMap& attrs);
InferResult InferNorm(Operands operands, const AttrMap& attrs);

// infer_attention.cc
InferResult InferAttention(Operands operands, const AttrMap& attrs);
InferResult InferKvAppend(Operands operands, const AttrMap& attrs);
InferResult InferPagedAttention(Operands operands, const AttrMap& attrs);
InferResult InferCachedAttention(Operands operands, const AttrMap& attrs);

// infer_fused.cc
InferResult InferRope(Operands operands, const AttrMap& attrs);
InferResult InferFusedLinear(Operands operands, const AttrMap& attrs);
InferResult InferAddNorm(Operands operands, const AttrMap& attrs);
InferResult InferQuantize(Operands operands, const AttrMap& attrs);

// --- what the rules share ---

// The value of an attribute whose presence and kind InferTypes has checked.
template <typename T>
const T& Get(const AttrMap& attrs, std::string_view key) {
  return std::get<T>(attrs.find(key)->second);
}

// InvalidArgument "<what>: expected <wanted>, got <got>".
absl::Status Mismatch(std::string_view what, std::string_view wanted, std::string_view got);
absl::Status Mismatch(std::string_view what, std::string_view wanted, const TensorType& got);

absl::Status RequireFloat(std::string_view what, const TensorType& type);
absl::Status RequireNumeric(std::string_view what, const TensorType& type);  // float or integer
absl::Status RequireRank(std::string_view what, const TensorType& type, size_t rank);
absl::Status RequireShape(std::string_view what, const TensorType& type, const Dims& shape);
absl::Status RequireAxis(std::string_view what, int64_t axis, size_t rank);  // 0 <= axis < rank

// An optional float vector of one entry a channel.
absl::Status RequireChannelVector(std::string_view what, Operands operands, size_t i, const DimExpr& channels);
absl::Status RequireEps(const AttrMap& attrs);  // attribute eps, at least 0

// numpy broadcasting: aligned at the last axis, dims equal or constant 1.
absl::StatusOr<Dims> Broadcast(const Dims& a, const Dims& b);

// Whether the optional operand i is there.
inline bool IsGiven(Operands operands, size_t i) { return i < operands.size() && !operands[i].is_absent(); }

}  // namespace flashflow::ir

#endif  // COMPILER_IR_INFER_H_
