#include "compiler/passes/simplify_pass.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "compiler/ir/status_macros.h"
#include "compiler/passes/rewrite.h"

namespace flashflow::passes {
namespace {

using ir::Graph;
using ir::Node;
using ir::Op;
using ir::Value;
using Rewrite = absl::StatusOr<Value*>;

const Dims& Shape(const Value* value) { return value->tensor().shape; }

Rewrite Constant(Graph* graph, Node* node, double number) {
  return AddBefore(graph, node, Op::kConstant, {},
                   {{"value", number}, {"dtype", node->result()->tensor().dtype}, {"shape", Shape(node->result())}});
}

// The value, repeated where broadcasting made the node's result larger.
Rewrite AsResult(Graph* graph, Node* node, Value* value) {
  if (value->type() == node->result()->type()) return value;
  return AddBefore(graph, node, Op::kExpand, {value}, {{"shape", Shape(node->result())}});
}

// The least normal number of a float dtype is 2^MinExponent, the greatest below 2^(MaxExponent + 1).
int MinExponent(DType dtype) { return dtype == DType::kF16 ? -14 : -126; }
int MaxExponent(DType dtype) { return dtype == DType::kF16 ? 15 : 127; }

// 1 / number, if both are powers of two that the dtype holds as normal numbers: then x / number and x * (1 / number)
// are the same real number, rounded once.
std::optional<double> ExactReciprocal(double number, DType dtype) {
  int exponent = 0;
  if (std::abs(std::frexp(number, &exponent)) != 0.5) return std::nullopt;
  --exponent;  // number = +-2^exponent
  if (std::max(exponent, -exponent) > std::min(MaxExponent(dtype), -MinExponent(dtype))) return std::nullopt;
  return 1 / number;
}

Rewrite DivideByPowerOfTwo(Graph* graph, Node* node, PassContext*) {
  if (node->op() != Op::kDiv) return nullptr;
  const std::optional<double> divisor = ConstantValue(node->operand(1));
  if (!divisor.has_value()) return nullptr;
  const std::optional<double> factor = ExactReciprocal(*divisor, node->result()->tensor().dtype);
  if (!factor.has_value()) return nullptr;
  AttrMap attrs = node->operand(1)->def()->attrs();
  attrs["value"] = *factor;
  FF_ASSIGN_OR_RETURN(Value * constant, AddBefore(graph, node, Op::kConstant, {}, std::move(attrs)));
  return AddBefore(graph, node, Op::kMul, {node->operand(0), constant});
}

Rewrite Negation(Graph* graph, Node* node, PassContext*) {
  if (node->op() == Op::kMul) {
    for (int i : {0, 1}) {
      Value* other = node->operand(1 - i);
      if (IsConstant(node->operand(i), -1) && other->type() == node->result()->type()) {
        return AddBefore(graph, node, Op::kNeg, {other});
      }
    }
  }
  if (node->op() == Op::kAdd) {
    for (int i : {0, 1}) {
      if (const Node* neg = DefinedBy(node->operand(i), Op::kNeg); neg != nullptr) {
        return AddBefore(graph, node, Op::kSub, {node->operand(1 - i), neg->operand(0)});
      }
    }
  }
  if (node->op() == Op::kSub) {
    if (const Node* neg = DefinedBy(node->operand(1), Op::kNeg); neg != nullptr) {
      return AddBefore(graph, node, Op::kAdd, {node->operand(0), neg->operand(0)});
    }
  }
  return nullptr;
}

Rewrite Choice(Graph* graph, Node* node, PassContext*) {
  if (node->op() != Op::kWhere) return nullptr;
  if (node->operand(1) == node->operand(2)) return AsResult(graph, node, node->operand(1));
  const std::optional<double> condition = ConstantValue(node->operand(0));
  if (!condition.has_value()) return nullptr;
  return AsResult(graph, node, node->operand(*condition != 0 ? 1 : 2));
}

Rewrite Logic(Graph* graph, Node* node, PassContext*) {
  if (node->op() != Op::kLogicalAnd && node->op() != Op::kLogicalOr) return nullptr;
  if (node->operand(0) == node->operand(1)) return node->operand(0);
  const bool neutral = node->op() == Op::kLogicalAnd;
  for (int i : {0, 1}) {
    const std::optional<double> constant = ConstantValue(node->operand(i));
    if (!constant.has_value()) continue;
    if ((*constant != 0) != neutral) return Constant(graph, node, *constant);
    return AsResult(graph, node, node->operand(1 - i));
  }
  return nullptr;
}

// Operations on twice the same value, and products with 0.
Rewrite OfItself(Graph* graph, Node* node, PassContext* context) {
  double result = 0;
  switch (node->op()) {
    case Op::kMaximum:
    case Op::kMinimum:
      return node->operand(0) == node->operand(1) ? node->operand(0) : nullptr;
    case Op::kSub:
      if (node->operand(0) != node->operand(1)) return nullptr;
      break;
    case Op::kMul:
      if (!IsConstant(node->operand(0), 0) && !IsConstant(node->operand(1), 0)) return nullptr;
      break;
    case Op::kEq:
    case Op::kLe:
    case Op::kGe:
      if (node->operand(0) != node->operand(1)) return nullptr;
      result = 1;
      break;
    case Op::kNe:
    case Op::kLt:
    case Op::kGt:
      if (node->operand(0) != node->operand(1)) return nullptr;
      break;
    default:
      return nullptr;
  }
  if (IsFloat(node->operand(0)->tensor().dtype)) {
    context->Refuse(*graph, node, "NaN and infinity do not follow that rule of numbers");
    return nullptr;
  }
  return Constant(graph, node, result);
}

Rewrite SliceOfSlice(Graph* graph, Node* node, PassContext*) {
  if (node->op() != Op::kSlice) return nullptr;
  const Node* inner = DefinedBy(node->operand(0), Op::kSlice);
  const int64_t axis = node->attr<int64_t>("axis");
  if (inner == nullptr || inner->attr<int64_t>("axis") != axis) return nullptr;
  if (node->attr<int64_t>("step") != 1 || inner->attr<int64_t>("step") != 1) return nullptr;
  const DimExpr& offset = inner->attr<DimExpr>("start");
  return AddBefore(graph, node, Op::kSlice, {inner->operand(0)},
                   {{"axis", axis},
                    {"start", offset + node->attr<DimExpr>("start")},
                    {"stop", offset + node->attr<DimExpr>("stop")}});
}

// Where a - b has a known sign for all sizes: -1, 0 or 1 at least as great.
bool AtLeast(const Graph& graph, const DimExpr& a, const DimExpr& b) {
  const auto bounds = (a - b).Bounds(graph.symbol_ranges());
  return bounds.ok() && bounds->min >= 0;
}

Rewrite SliceOfConcat(Graph* graph, Node* node, PassContext*) {
  if (node->op() != Op::kSlice) return nullptr;
  const Node* concat = DefinedBy(node->operand(0), Op::kConcat);
  const int64_t axis = node->attr<int64_t>("axis");
  if (concat == nullptr || concat->attr<int64_t>("axis") != axis) return nullptr;
  const DimExpr& start = node->attr<DimExpr>("start");
  const DimExpr& stop = node->attr<DimExpr>("stop");
  DimExpr begin = 0;
  for (Value* part : concat->operands()) {
    const DimExpr end = begin + Shape(part)[axis];
    if (AtLeast(*graph, start, begin) && AtLeast(*graph, end, stop)) {
      AttrMap attrs = node->attrs();
      attrs["start"] = start - begin;
      attrs["stop"] = stop - begin;
      return AddBefore(graph, node, Op::kSlice, {part}, std::move(attrs));
    }
    begin = end;
  }
  return nullptr;
}

Rewrite ConcatOfSlices(Graph* graph, Node* node, PassContext*) {
  if (node->op() != Op::kConcat || node->num_operands() < 2) return nullptr;
  const int64_t axis = node->attr<int64_t>("axis");
  const auto slice_at = [&](int i) -> const Node* {
    const Node* slice = DefinedBy(node->operand(i), Op::kSlice);
    if (slice == nullptr || slice->attr<int64_t>("axis") != axis || slice->attr<int64_t>("step") != 1) return nullptr;
    return slice;
  };
  // The first two neighbours that continue one another.
  for (int i = 0; i + 1 < node->num_operands(); ++i) {
    const Node* left = slice_at(i);
    const Node* right = slice_at(i + 1);
    if (left == nullptr || right == nullptr || left->operand(0) != right->operand(0)) continue;
    if (left->attr<DimExpr>("stop") != right->attr<DimExpr>("start")) continue;
    FF_ASSIGN_OR_RETURN(
        Value * joined,
        AddBefore(graph, node, Op::kSlice, {left->operand(0)},
                  {{"axis", axis}, {"start", left->attr<DimExpr>("start")}, {"stop", right->attr<DimExpr>("stop")}}));
    std::vector<Value*> operands(node->operands().begin(), node->operands().end());
    operands[i] = joined;
    operands.erase(operands.begin() + i + 1);
    if (operands.size() == 1) return joined;
    return AddBefore(graph, node, Op::kConcat, std::move(operands), node->attrs());
  }
  return nullptr;
}

bool Broadcasts(const Node& node) {
  return node.op() >= Op::kAdd && node.op() <= Op::kWhere;  // the op table's group of two or three operands
}

Rewrite Expanded(Graph* graph, Node* node, PassContext*) {
  if (node->op() == Op::kExpand) {
    const Node* inner = DefinedBy(node->operand(0), Op::kExpand);
    return inner == nullptr ? nullptr : AddBefore(graph, node, Op::kExpand, {inner->operand(0)}, node->attrs());
  }
  if (!Broadcasts(*node)) return nullptr;
  for (int i = 0; i < node->num_operands(); ++i) {
    const Node* expand = DefinedBy(node->operand(i), Op::kExpand);
    if (expand == nullptr) continue;
    std::vector<ir::Type> types;
    std::vector<Value*> operands(node->operands().begin(), node->operands().end());
    operands[i] = expand->operand(0);
    for (const Value* operand : operands) types.push_back(operand->type());
    AttrMap attrs = node->attrs();
    const auto inferred = ir::InferTypes(node->op(), types, &attrs);
    if (!inferred.ok() || (*inferred)[0] != node->result()->type()) continue;
    return AddBefore(graph, node, node->op(), std::move(operands), std::move(attrs));
  }
  return nullptr;
}

// Whether every value of `from` is one of `to`.
bool Holds(DType to, DType from) {
  if (to == from || from == DType::kBool) return true;
  if (IsFloat(from)) return to == DType::kF32;
  return IsInteger(from) && IsInteger(to) && DTypeBytes(to) > DTypeBytes(from);
}

Rewrite CastOfWidening(Graph* graph, Node* node, PassContext*) {
  if (node->op() != Op::kCast) return nullptr;
  const Node* inner = DefinedBy(node->operand(0), Op::kCast);
  if (inner == nullptr) return nullptr;
  if (!Holds(inner->result()->tensor().dtype, inner->operand(0)->tensor().dtype)) return nullptr;
  return AddBefore(graph, node, Op::kCast, {inner->operand(0)}, node->attrs());
}

Rewrite LinearOn(Graph* graph, Node* before, const Node& layer, Value* x) {
  std::vector<Value*> operands(layer.operands().begin(), layer.operands().end());
  operands[0] = x;
  FF_ASSIGN_OR_RETURN(Node * node, graph->AddNode(Op::kLinear, std::move(operands), {}, layer.loc(), before));
  return node->result();
}

// Layers work along the last axis alone: where models flatten the tokens for one, it can do without.
Rewrite LinearOfFlattened(Graph* graph, Node* node, PassContext*) {
  if (node->op() == Op::kLinear) {
    const Node* flatten = DefinedBy(node->operand(0), Op::kReshape);
    if (flatten == nullptr) return nullptr;
    const Dims& apart = Shape(flatten->operand(0));
    const Dims& flat = Shape(flatten->result());
    if (apart.size() <= flat.size() || apart.back() != flat.back()) return nullptr;
    FF_ASSIGN_OR_RETURN(Value * y, LinearOn(graph, node, *node, flatten->operand(0)));
    return AddBefore(graph, node, Op::kReshape, {y}, {{"shape", Shape(node->result())}});
  }
  if (node->op() != Op::kReshape) return nullptr;
  const Node* layer = DefinedBy(node->operand(0), Op::kLinear);
  if (layer == nullptr || layer->result()->uses().size() != 1 || layer->result()->IsOutput()) return nullptr;
  if (DefinedBy(layer->operand(0), Op::kReshape) == nullptr) return nullptr;
  Dims apart = Shape(node->result());
  if (apart.size() <= Shape(layer->result()).size() || apart.back() != Shape(layer->result()).back()) return nullptr;
  apart.back() = Shape(layer->operand(0)).back();
  FF_ASSIGN_OR_RETURN(Value * x, AddBefore(graph, node, Op::kReshape, {layer->operand(0)}, {{"shape", apart}}));
  return LinearOn(graph, node, *layer, x);
}

constexpr RewriteRule kRules[] = {DivideByPowerOfTwo, Negation,       Choice,           Logic,
                                  OfItself,           SliceOfSlice,   SliceOfConcat,    ConcatOfSlices,
                                  Expanded,           CastOfWidening, LinearOfFlattened};

}  // namespace

absl::StatusOr<bool> SimplifyPass::Run(Graph* graph, PassContext* context) const {
  // Ends: every rule leaves fewer nodes between a value and the inputs, an operation that no rule takes (a product by
  // something else than -1 or 0, a sum or difference of one negation less), or a linear layer of a higher rank.
  return ApplyRules(graph, kRules, context);
}

}  // namespace flashflow::passes
