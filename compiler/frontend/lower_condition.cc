// Comparisons, logic and choice: what attention masks are made of.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compiler/frontend/lowering.h"
#include "compiler/frontend/promotion.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::frontend {
namespace {

using ir::Op;

absl::StatusOr<Values> One(absl::StatusOr<ir::Value*> value) {
  if (!value.ok()) return value.status();
  return Values{*value};
}

template <Op op>
absl::StatusOr<Values> Compare(const Call& call) {
  FF_ASSIGN_OR_RETURN(const Promoted sides, Promote(call, "self", "other"));
  if (sides.a->tensor().dtype != DType::kBool || op == Op::kEq || op == Op::kNe) {
    return One(call.Emit(op, {sides.a, sides.b}));
  }
  FF_ASSIGN_OR_RETURN(ir::Value * a, call.Cast(sides.a, DType::kI32));  // false < true
  FF_ASSIGN_OR_RETURN(ir::Value * b, call.Cast(sides.b, DType::kI32));
  return One(call.Emit(op, {a, b}));
}

// logical_and and the like: numbers count as whether they are not 0.
template <Op op>
absl::StatusOr<Values> Logical(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(x, call.Cast(x, DType::kBool));
  if constexpr (op == Op::kLogicalNot) {
    return One(call.Emit(op, {x}));
  } else {
    FF_ASSIGN_OR_RETURN(ir::Value * y, call.Tensor("other"));
    FF_ASSIGN_OR_RETURN(y, call.Cast(y, DType::kBool));
    return One(call.Emit(op, {x, y}));
  }
}

// & and | and ~: of bools only.
template <Op op>
absl::StatusOr<Values> Bitwise(const Call& call) {
  FF_ASSIGN_OR_RETURN(const ir::Value* x, call.Tensor("self"));
  if (x->tensor().dtype != DType::kBool) return call.Error("self", "a bool tensor");
  if constexpr (op != Op::kLogicalNot) {
    FF_ASSIGN_OR_RETURN(const ir::Value* y, call.Tensor("other"));
    if (y->tensor().dtype != DType::kBool) return call.Error("other", "a bool tensor");
  }
  return Logical<op>(call);
}

absl::StatusOr<Values> Where(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * condition, call.Tensor("condition"));
  FF_ASSIGN_OR_RETURN(condition, call.Cast(condition, DType::kBool));
  FF_ASSIGN_OR_RETURN(const Promoted sides, Promote(call, "self", "other"));
  return One(call.Emit(Op::kWhere, {condition, sides.a, sides.b}));
}

absl::StatusOr<Values> MaskedFill(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(ir::Value * mask, call.Tensor("mask"));
  if (mask->tensor().dtype != DType::kBool) return call.Error("mask", "a bool tensor");
  ir::Value* fill = nullptr;
  if (std::holds_alternative<Ref>(call.Get("value").value)) {
    FF_ASSIGN_OR_RETURN(fill, call.Tensor("value"));
    FF_ASSIGN_OR_RETURN(fill, call.Cast(fill, x->tensor().dtype));
  } else {
    FF_ASSIGN_OR_RETURN(const double number, call.Float("value"));
    FF_ASSIGN_OR_RETURN(fill, call.Constant(number, x->tensor().dtype));
  }
  return One(call.Emit(Op::kWhere, {mask, fill, x}));
}

// x where column - row <= diagonal (tril) or >= diagonal (triu), else 0.
template <Op op>
absl::StatusOr<Values> Triangle(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(const int64_t diagonal, call.Int("diagonal", 0));
  const Dims& shape = x->tensor().shape;
  if (shape.size() < 2) return call.Error("self", "a tensor of rank 2 or more");
  if (diagonal > (1 << 24) || diagonal < -(1 << 24)) return call.Error("diagonal", "an int of 24 bits");
  const Dims matrix(shape.end() - 2, shape.end());
  ir::Value* places[2];
  for (int64_t axis : {0, 1}) {
    FF_ASSIGN_OR_RETURN(places[axis],
                        call.Emit(Op::kIota, {}, {{"dtype", DType::kI64}, {"shape", matrix}, {"axis", axis}}));
  }
  FF_ASSIGN_OR_RETURN(ir::Value * distance, call.Emit(Op::kSub, {places[1], places[0]}));
  FF_ASSIGN_OR_RETURN(ir::Value * limit, call.Constant(static_cast<double>(diagonal), DType::kI64));
  FF_ASSIGN_OR_RETURN(ir::Value * kept, call.Emit(op, {distance, limit}));
  if (x->tensor().dtype == DType::kBool) return One(call.Emit(Op::kLogicalAnd, {kept, x}));
  FF_ASSIGN_OR_RETURN(ir::Value * zero, call.Constant(0, x->tensor().dtype));
  return One(call.Emit(Op::kWhere, {kept, x, zero}));
}

constexpr TargetRow kTargets[] = {
    {"aten.eq.Tensor", "self other", Compare<Op::kEq>},
    {"aten.eq.Scalar", "self other", Compare<Op::kEq>},
    {"aten.ne.Tensor", "self other", Compare<Op::kNe>},
    {"aten.ne.Scalar", "self other", Compare<Op::kNe>},
    {"aten.lt.Tensor", "self other", Compare<Op::kLt>},
    {"aten.lt.Scalar", "self other", Compare<Op::kLt>},
    {"aten.le.Tensor", "self other", Compare<Op::kLe>},
    {"aten.le.Scalar", "self other", Compare<Op::kLe>},
    {"aten.gt.Tensor", "self other", Compare<Op::kGt>},
    {"aten.gt.Scalar", "self other", Compare<Op::kGt>},
    {"aten.ge.Tensor", "self other", Compare<Op::kGe>},
    {"aten.ge.Scalar", "self other", Compare<Op::kGe>},
    {"aten.logical_and.default", "self other", Logical<Op::kLogicalAnd>},
    {"aten.logical_or.default", "self other", Logical<Op::kLogicalOr>},
    {"aten.logical_not.default", "self", Logical<Op::kLogicalNot>},
    {"aten.__and__.Tensor", "self other", Bitwise<Op::kLogicalAnd>, "of bools"},
    {"aten.__or__.Tensor", "self other", Bitwise<Op::kLogicalOr>, "of bools"},
    {"aten.bitwise_and.Tensor", "self other", Bitwise<Op::kLogicalAnd>, "of bools"},
    {"aten.bitwise_or.Tensor", "self other", Bitwise<Op::kLogicalOr>, "of bools"},
    {"aten.bitwise_not.default", "self", Bitwise<Op::kLogicalNot>, "of bools"},
    {"aten.where.self", "condition self other", Where},
    {"aten.where.ScalarOther", "condition self other", Where},
    {"aten.where.ScalarSelf", "condition self other", Where},
    {"aten.where.Scalar", "condition self other", Where},
    {"aten.masked_fill.Scalar", "self mask value", MaskedFill},
    {"aten.masked_fill.Tensor", "self mask value", MaskedFill},
    {"aten.tril.default", "self diagonal?", Triangle<Op::kLe>},
    {"aten.triu.default", "self diagonal?", Triangle<Op::kGe>},
};

}  // namespace

absl::Span<const TargetRow> ConditionTargets() { return kTargets; }

}  // namespace flashflow::frontend
