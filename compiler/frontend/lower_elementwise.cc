// Elementwise targets, with torch's type promotion.
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compiler/frontend/lowering.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::frontend {
namespace {

using ir::Op;

// torch's order of categories: bool < integer < float. A dtype of a higher category wins; within one, the wider.
int Category(DType dtype) { return dtype == DType::kBool ? 0 : IsInteger(dtype) ? 1 : 2; }

DType Wider(DType a, DType b) {
  if (a == b) return a;
  if (Category(a) != Category(b)) return Category(a) > Category(b) ? a : b;
  if (Category(a) == 2) return DType::kF32;  // two different floats: f16 with bf16, or either with f32
  return DTypeBytes(a) > DTypeBytes(b) ? a : b;
}

// One side of a binary call. Tensors with dims outrank those without, which outrank plain numbers: the lower ranks only
// raise the category.
struct Side {
  ir::Value* tensor = nullptr;  // nullptr: a number
  double number = 0;
  DType dtype = DType::kF32;
  int rank_class = 0;  // 2 a tensor with dims, 1 a tensor of shape [], 0 a number
};

absl::StatusOr<Side> ReadSide(const Call& call, std::string_view name) {
  const Arg& arg = call.Get(name);
  if (const auto* value = std::get_if<bool>(&arg.value)) return Side{nullptr, *value ? 1.0 : 0.0, DType::kBool, 0};
  if (const auto* value = std::get_if<double>(&arg.value)) return Side{nullptr, *value, DType::kF32, 0};
  if (const auto* value = std::get_if<int64_t>(&arg.value)) {
    constexpr int64_t kLargest = int64_t{1} << 53;
    if (*value > kLargest || *value < -kLargest) {
      return call.Error(name, "an integer that a double holds exactly, |x| <= 2^53");
    }
    return Side{nullptr, static_cast<double>(*value), DType::kI64, 0};
  }
  if (!std::holds_alternative<Ref>(arg.value)) return call.Error(name, "a tensor or a number");
  FF_ASSIGN_OR_RETURN(ir::Value * tensor, call.Tensor(name));
  return Side{tensor, 0, tensor->tensor().dtype, tensor->tensor().shape.empty() ? 1 : 2};
}

DType Promote(const Side& a, const Side& b) {
  if (a.rank_class == b.rank_class) return Wider(a.dtype, b.dtype);
  const Side& high = a.rank_class > b.rank_class ? a : b;
  const Side& low = a.rank_class > b.rank_class ? b : a;
  return Category(low.dtype) > Category(high.dtype) ? low.dtype : high.dtype;
}

absl::StatusOr<ir::Value*> Materialize(const Call& call, const Side& side, DType dtype) {
  return side.tensor != nullptr ? call.Cast(side.tensor, dtype) : call.Constant(side.number, dtype);
}

absl::StatusOr<Values> LowerPromoted(const Call& call, Op op, std::string_view left, std::string_view right) {
  FF_ASSIGN_OR_RETURN(const Side a, ReadSide(call, left));
  FF_ASSIGN_OR_RETURN(const Side b, ReadSide(call, right));
  if (a.tensor == nullptr && b.tensor == nullptr) return call.Error(left, "at least one tensor operand");
  DType dtype = Promote(a, b);
  if (dtype == DType::kBool && op != Op::kEq && op != Op::kNe) {
    return absl::InvalidArgumentError("arithmetic on two bool tensors is not supported; cast one of them");
  }
  if (op == Op::kDiv && !IsFloat(dtype)) dtype = DType::kF32;
  FF_ASSIGN_OR_RETURN(ir::Value * x, Materialize(call, a, dtype));
  FF_ASSIGN_OR_RETURN(ir::Value * y, Materialize(call, b, dtype));
  FF_ASSIGN_OR_RETURN(ir::Value * result, call.Emit(op, {x, y}));
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
  FF_ASSIGN_OR_RETURN(const Side base, ReadSide(call, "self"));
  if (!IsFloat(base.dtype)) return call.Error("self", "a float tensor");
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
