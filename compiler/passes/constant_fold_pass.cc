#include "compiler/passes/constant_fold_pass.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "compiler/ir/float_convert.h"
#include "compiler/ir/status_macros.h"
#include "compiler/passes/index_form.h"
#include "compiler/passes/rewrite.h"

namespace flashflow::passes {
namespace {

using ir::Node;
using ir::Op;
using ir::Value;

// What a node may become.
struct Folded {
  Op op;  // kConstant or kIota
  AttrMap attrs;
};

Folded Constant(double number, const ir::TensorType& type) {
  return {Op::kConstant, {{"value", number}, {"dtype", type.dtype}, {"shape", type.shape}}};
}

// The closed forms that have an op of their own.
std::optional<Folded> FromIndexForm(const Node& node, const IndexForms& forms) {
  const ir::TensorType& type = node.result()->tensor();
  if (const Condition* condition = forms.Predicate(node.result()); condition != nullptr) {
    if (!condition->always() && !condition->never) return std::nullopt;
    return Constant(condition->never ? 0 : 1, type);
  }
  const IndexForm* form = forms.Integer(node.result());
  if (form == nullptr || !form->constant.IsConstant()) return std::nullopt;
  const auto steps = std::ranges::count_if(form->steps, [](int64_t step) { return step != 0; });
  if (steps == 0) return Constant(static_cast<double>(*form->constant.constant()), type);
  const auto one = std::ranges::find(form->steps, 1);
  if (steps > 1 || one == form->steps.end() || form->constant != DimExpr(0)) return std::nullopt;
  return Folded{Op::kIota, {{"dtype", type.dtype}, {"shape", type.shape}, {"axis", one - form->steps.begin()}}};
}

// One element of a node whose operands are constants, computed as the interpreter does, before rounding. nullopt: an
// operation that is not folded.
std::optional<double> Compute(const Node& node, const std::vector<double>& x) {
  switch (node.op()) {
    case Op::kNeg:
      return -x[0];
    case Op::kAbs:
      return std::abs(x[0]);
    case Op::kSqrt:
      return std::sqrt(x[0]);
    case Op::kRsqrt:
      return 1 / std::sqrt(x[0]);
    case Op::kReciprocal:
      return 1 / x[0];
    case Op::kAdd:
      return x[0] + x[1];
    case Op::kSub:
      return x[0] - x[1];
    case Op::kMul:
      return x[0] * x[1];
    case Op::kDiv:
      return x[0] / x[1];
    case Op::kMaximum:
      return std::isnan(x[0]) || x[0] > x[1] ? x[0] : x[1];
    case Op::kMinimum:
      return std::isnan(x[0]) || x[0] < x[1] ? x[0] : x[1];
    case Op::kWhere:
      return x[0] != 0 ? x[1] : x[2];
    case Op::kEq:
      return x[0] == x[1];
    case Op::kNe:
      return x[0] != x[1];
    case Op::kLt:
      return x[0] < x[1];
    case Op::kLe:
      return x[0] <= x[1];
    case Op::kGt:
      return x[0] > x[1];
    case Op::kGe:
      return x[0] >= x[1];
    case Op::kCast:
      // To an integer only what needs no truncation or clamping.
      if (IsInteger(node.result()->tensor().dtype) && (std::trunc(x[0]) != x[0] || std::abs(x[0]) > 127)) {
        return std::nullopt;
      }
      return node.result()->tensor().dtype == DType::kBool ? x[0] != 0 : x[0];
    case Op::kReshape:
    case Op::kTranspose:
    case Op::kExpand:
    case Op::kSlice:
      return x[0];
    case Op::kConcat:
      if (std::ranges::any_of(x, [&x](double y) { return y != x[0] || std::signbit(y) != std::signbit(x[0]); })) {
        return std::nullopt;
      }
      return x[0];
    default:
      return std::nullopt;
  }
}

// Moving elements keeps even a number that its dtype cannot hold exactly.
bool MovesElements(Op op) {
  return op == Op::kReshape || op == Op::kTranspose || op == Op::kExpand || op == Op::kSlice;
}

std::optional<Folded> FromConstants(const ir::Graph& graph, const Node& node, PassContext* context) {
  std::vector<double> numbers;
  bool exact = true;
  for (const Value* operand : node.operands()) {
    const std::optional<double> number = ConstantValue(operand);
    if (!number.has_value()) return std::nullopt;
    const DType dtype = operand->tensor().dtype;
    exact &= !IsFloat(dtype) || std::isnan(*number) || RoundTo(dtype, *number) == *number;
    numbers.push_back(*number);
  }
  if (numbers.empty()) return std::nullopt;
  const std::optional<double> number = Compute(node, numbers);
  if (!number.has_value()) return std::nullopt;
  const ir::TensorType& type = node.result()->tensor();
  if (!exact && !MovesElements(node.op())) {
    context->Refuse(graph, &node, "an operand is not a value of its dtype, so its rounding has to stay");
    return std::nullopt;
  }
  // Integers wrap around at their dtype's width: none that comes near it is folded.
  if (!IsFloat(type.dtype) && (std::isnan(*number) || std::abs(*number) > 127)) return std::nullopt;
  return Constant(*number, type);
}

}  // namespace

absl::StatusOr<bool> ConstantFoldPass::Run(ir::Graph* graph, PassContext* context) const {
  const int64_t before = context->rewrites();
  const IndexForms forms(*graph, /*consecutive_positions=*/false);
  std::vector<Node*> nodes;
  for (const auto& node : graph->nodes()) nodes.push_back(node.get());
  for (Node* node : nodes) {  // operands come first, so that chains fold in one sweep
    if (node->results().size() != 1 || !node->result()->type().is_tensor() || !node->result()->HasUses()) continue;
    if (node->op() == Op::kConstant) continue;
    std::optional<Folded> folded = FromIndexForm(*node, forms);
    if (!folded.has_value()) folded = FromConstants(*graph, *node, context);
    if (!folded.has_value() || (node->op() == Op::kIota && folded->op == Op::kIota)) continue;
    if (!context->BeginRewrite()) break;
    FF_ASSIGN_OR_RETURN(Value * constant, AddBefore(graph, node, folded->op, {}, std::move(folded->attrs)));
    graph->ReplaceAllUsesWith(node->result(), constant);
  }
  return context->rewrites() != before;
}

}  // namespace flashflow::passes
