// Elementwise targets, with torch's type promotion.
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compiler/frontend/lowering.h"
#include "compiler/frontend/promotion.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::frontend {
namespace {

using ir::Op;

absl::StatusOr<Values> LowerPromoted(const Call& call, Op op, std::string_view left, std::string_view right) {
  const auto is_tensor = [&call](std::string_view name) { return std::holds_alternative<Ref>(call.Get(name).value); };
  if (!is_tensor(left) && !is_tensor(right)) return call.Error(left, "at least one tensor operand");
  FF_ASSIGN_OR_RETURN(const Promoted sides, Promote(call, left, right, /*at_least_float=*/op == Op::kDiv));
  if (sides.a->tensor().dtype == DType::kBool) {
    return absl::InvalidArgumentError("arithmetic on two bool tensors is not supported; cast one of them");
  }
  FF_ASSIGN_OR_RETURN(ir::Value * result, call.Emit(op, {sides.a, sides.b}));
  return Values{result};
}

template <Op op>
absl::StatusOr<Values> Binary(const Call& call) {
  if constexpr (op == Op::kAdd || op == Op::kSub) {
    FF_RETURN_IF_ERROR(
        call.RequireDefault("alpha", Arg{int64_t{1}}, "multiply the second operand in the model instead"));
  }
  if constexpr (op == Op::kDiv) {
    FF_RETURN_IF_ERROR(call.RequireDefault("rounding_mode", Arg{}, "only true division is"));
  }
  return LowerPromoted(call, op, "self", "other");
}

absl::StatusOr<Values> ReverseSub(const Call& call) {
  FF_RETURN_IF_ERROR(call.RequireDefault("alpha", Arg{int64_t{1}}, "multiply the operand in the model instead"));
  return LowerPromoted(call, Op::kSub, "other", "self");
}

absl::StatusOr<Values> Pow(const Call& call) {
  FF_ASSIGN_OR_RETURN(const ir::Value* base, call.Tensor("self"));
  if (!IsFloat(base->tensor().dtype)) return call.Error("self", "a float tensor");
  return LowerPromoted(call, Op::kPow, "self", "exponent");
}

template <Op op>
absl::StatusOr<Values> Unary(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  constexpr bool keeps_integers = op == Op::kNeg || op == Op::kAbs || op == Op::kRelu || op == Op::kLogicalNot;
  if (!keeps_integers && !IsFloat(x->tensor().dtype)) {
    FF_ASSIGN_OR_RETURN(x, call.Cast(x, DType::kF32));
  }
  FF_ASSIGN_OR_RETURN(ir::Value * result, call.Emit(op, {x}));
  return Values{result};
}

absl::StatusOr<Values> Gelu(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(std::string approximate, call.String("approximate", "none"));
  FF_ASSIGN_OR_RETURN(ir::Value * result, call.Emit(Op::kGelu, {x}, {{"approximate", std::move(approximate)}}));
  return Values{result};
}

constexpr TargetRow kTargets[] = {
    {"aten.neg.default", "self", Unary<Op::kNeg>},
    {"aten.abs.default", "self", Unary<Op::kAbs>},
    {"aten.exp.default", "self", Unary<Op::kExp>},
    {"aten.sqrt.default", "self", Unary<Op::kSqrt>},
    {"aten.rsqrt.default", "self", Unary<Op::kRsqrt>},
    {"aten.reciprocal.default", "self", Unary<Op::kReciprocal>},
    {"aten.tanh.default", "self", Unary<Op::kTanh>},
    {"aten.erf.default", "self", Unary<Op::kErf>},
    {"aten.sigmoid.default", "self", Unary<Op::kSigmoid>},
    {"aten.sin.default", "self", Unary<Op::kSin>},
    {"aten.cos.default", "self", Unary<Op::kCos>},
    {"aten.relu.default", "self", Unary<Op::kRelu>},
    {"aten.silu.default", "self", Unary<Op::kSilu>},
    {"aten.gelu.default", "self approximate?", Gelu},
    {"aten.add.Tensor", "self other alpha?", Binary<Op::kAdd>, "alpha must be 1"},
    {"aten.add.Scalar", "self other alpha?", Binary<Op::kAdd>, "alpha must be 1"},
    {"aten.sub.Tensor", "self other alpha?", Binary<Op::kSub>, "alpha must be 1"},
    {"aten.sub.Scalar", "self other alpha?", Binary<Op::kSub>, "alpha must be 1"},
    {"aten.rsub.Tensor", "self other alpha?", ReverseSub, "alpha must be 1"},
    {"aten.rsub.Scalar", "self other alpha?", ReverseSub, "alpha must be 1"},
    {"aten.mul.Tensor", "self other", Binary<Op::kMul>},
    {"aten.mul.Scalar", "self other", Binary<Op::kMul>},
    {"aten.div.Tensor", "self other", Binary<Op::kDiv>},
    {"aten.div.Scalar", "self other", Binary<Op::kDiv>},
    {"aten.maximum.default", "self other", Binary<Op::kMaximum>},
    {"aten.minimum.default", "self other", Binary<Op::kMinimum>},
    {"aten.pow.Tensor_Scalar", "self exponent", Pow, "floats only"},
    {"aten.pow.Tensor_Tensor", "self exponent", Pow, "floats only"},
};

}  // namespace

absl::Span<const TargetRow> ElementwiseTargets() { return kTargets; }

}  // namespace flashflow::frontend
