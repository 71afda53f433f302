// The op table: every operation of the IR as one row of data.
//
// A row states an op's name, operands, attributes, effects and type inference. Builder, parser, printer, verifier and
// docs/ir.md are driven by it; the interpreter gives each op its meaning. To add an op: a row here, its inference,
// its evaluation, and a kernel.
#ifndef COMPILER_IR_OP_TABLE_H_
#define COMPILER_IR_OP_TABLE_H_

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compiler/ir/attr.h"
#include "compiler/ir/type.h"

namespace flashflow::ir {

enum class Op : uint16_t {
  // elementwise, one operand
  kNeg,
  kAbs,
  kExp,
  kSqrt,
  kRsqrt,
  kReciprocal,
  kTanh,
  kErf,
  kSigmoid,
  kSin,
  kCos,
  kRelu,
  kGelu,
  kSilu,
  kCast,
  kLogicalNot,
  // elementwise, two or three operands, numpy broadcasting
  kAdd,
  kSub,
  kMul,
  kDiv,
  kPow,
  kMaximum,
  kMinimum,
  kEq,
  kNe,
  kLt,
  kLe,
  kGt,
  kGe,
  kLogicalAnd,
  kLogicalOr,
  kWhere,
  // creation and shape
  kConstant,
  kIota,
  kReshape,
  kTranspose,
  kExpand,
  kSlice,
  kConcat,
  // lookups
  kEmbedding,
  kGatherRows,
  kIndex,
  // reductions and contractions
  kReduceSum,
  kReduceMean,
  kReduceMax,
  kCumsum,
  kSoftmax,
  kMatmul,
  kLinear,
  kLayerNorm,
  kRmsNorm,
  kAttention,
  // what fusion passes make
  kRope,
  kFusedLinear,
  kAddNorm,
  kQuantize,
  // the step graph's own: paged KV cache over packed tokens
  kKvAppend,
  kPagedAttention,
  kCachedAttention,
};

enum class OperandKind : uint8_t { kRequired, kOptional, kVariadic };  // optional ones trail; variadic is last, >= 1
enum class Effect : uint8_t { kPure, kConsumesCache, kReadsCache };

struct OperandDef {
  std::string_view name;
  OperandKind kind = OperandKind::kRequired;
};

struct AttrDef {
  std::string_view name;
  AttrKind kind;
  std::optional<Attr> default_value = std::nullopt;  // nullopt = must be given. Printed IR omits values equal to it.
};

using InferFn = absl::StatusOr<std::vector<Type>> (*)(absl::Span<const Type> operands, const AttrMap& attrs);

struct OpDef {
  Op op;
  std::string_view name;   // snake_case, as in .ffir
  std::string_view group;  // heading in docs/ir.md
  std::vector<OperandDef> operands = {};
  std::vector<AttrDef> attrs = {};
  Effect effect = Effect::kPure;
  InferFn infer;
  std::string_view doc;  // semantics, one paragraph: shapes and the exact formula
};

// All rows, in the order of Op: row i describes static_cast<Op>(i).
absl::Span<const OpDef> OpTable();
const OpDef& GetOpDef(Op op);
inline std::string_view OpName(Op op) { return GetOpDef(op).name; }
const OpDef* FindOp(std::string_view name);  // nullptr if unknown

// Checks operand count, attribute names and kinds (filling defaults into *attrs) and infers the result types.
// InvalidArgument says which op, which operand or attribute, what was wanted and what came.
absl::StatusOr<std::vector<Type>> InferTypes(Op op, absl::Span<const Type> operands, AttrMap* attrs);

}  // namespace flashflow::ir

#endif  // COMPILER_IR_OP_TABLE_H_
