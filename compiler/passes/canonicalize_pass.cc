#include "compiler/passes/canonicalize_pass.h"

#include <cstdint>
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

// The value that may stand for the node's result, or nullptr where the rule does not apply.
using Rewrite = absl::StatusOr<Value*>;

// The operand, if it has the result's type.
Value* SameType(const Node* node, int operand) {
  return node->operand(operand)->type() == node->result()->type() ? node->operand(operand) : nullptr;
}

Rewrite Replace(Graph* graph, Node* node, Op op, std::vector<Value*> operands, AttrMap attrs = {}) {
  FF_ASSIGN_OR_RETURN(Node * replacement, graph->AddNode(op, std::move(operands), std::move(attrs), node->loc(), node));
  return replacement->result();
}

Rewrite NothingChanges(Graph*, Node* node, PassContext*) {
  switch (node->op()) {
    case Op::kReshape:
    case Op::kCast:
    case Op::kExpand:
      return SameType(node, 0);
    case Op::kSlice:  // with a step, an equal size would be size 1: still the same element only if it starts at 0
      return node->attr<DimExpr>("start") == DimExpr(0) ? SameType(node, 0) : nullptr;
    case Op::kConcat:
      return node->num_operands() == 1 ? node->operand(0) : nullptr;
    case Op::kTranspose: {
      const auto& perm = node->attr<std::vector<int64_t>>("perm");
      for (size_t i = 0; i < perm.size(); ++i) {
        if (perm[i] != static_cast<int64_t>(i)) return nullptr;
      }
      return node->operand(0);
    }
    default:
      return nullptr;
  }
}

Rewrite NeutralElement(Graph*, Node* node, PassContext*) {
  switch (node->op()) {
    case Op::kMul:
      if (IsConstant(node->operand(0), 1)) return SameType(node, 1);
      return IsConstant(node->operand(1), 1) ? SameType(node, 0) : nullptr;
    case Op::kDiv:
    case Op::kPow:
      return IsConstant(node->operand(1), 1) ? SameType(node, 0) : nullptr;
    case Op::kAdd:
      if (IsConstant(node->operand(0), 0)) return SameType(node, 1);
      return IsConstant(node->operand(1), 0) ? SameType(node, 0) : nullptr;
    case Op::kSub:
      return IsConstant(node->operand(1), 0) ? SameType(node, 0) : nullptr;
    default:
      return nullptr;
  }
}

// Whether every value of `from` is one of `to`.
bool Holds(DType to, DType from) {
  if (to == from || from == DType::kBool) return true;
  if (IsFloat(from)) return to == DType::kF32;
  return IsInteger(from) && IsInteger(to) && DTypeBytes(to) > DTypeBytes(from);
}

Rewrite Undone(Graph*, Node* node, PassContext*) {
  switch (node->op()) {
    case Op::kNeg:
    case Op::kLogicalNot: {
      const Node* inner = DefinedBy(node->operand(0), node->op());
      return inner == nullptr ? nullptr : inner->operand(0);
    }
    case Op::kCast: {
      const Node* inner = DefinedBy(node->operand(0), Op::kCast);
      if (inner == nullptr || inner->operand(0)->type() != node->result()->type()) return nullptr;
      return Holds(inner->result()->tensor().dtype, node->result()->tensor().dtype) ? inner->operand(0) : nullptr;
    }
    default:
      return nullptr;
  }
}

Rewrite Joined(Graph* graph, Node* node, PassContext*) {
  if (node->op() == Op::kReshape) {
    const Node* inner = DefinedBy(node->operand(0), Op::kReshape);
    return inner == nullptr ? nullptr : Replace(graph, node, Op::kReshape, {inner->operand(0)}, node->attrs());
  }
  if (node->op() == Op::kTranspose) {
    const Node* inner = DefinedBy(node->operand(0), Op::kTranspose);
    if (inner == nullptr) return nullptr;
    std::vector<int64_t> perm = node->attr<std::vector<int64_t>>("perm");
    for (int64_t& axis : perm) axis = inner->attr<std::vector<int64_t>>("perm")[axis];
    return Replace(graph, node, Op::kTranspose, {inner->operand(0)}, {{"perm", std::move(perm)}});
  }
  return nullptr;
}

Rewrite TransposeOfUnitAxes(Graph* graph, Node* node, PassContext*) {
  if (node->op() != Op::kTranspose) return nullptr;
  const Dims& shape = node->operand(0)->tensor().shape;
  int64_t last = -1;
  for (int64_t axis : node->attr<std::vector<int64_t>>("perm")) {
    if (shape[axis] == DimExpr(1)) continue;
    if (axis < last) return nullptr;
    last = axis;
  }
  return Replace(graph, node, Op::kReshape, {node->operand(0)}, {{"shape", node->result()->tensor().shape}});
}

Rewrite ZeroBias(Graph* graph, Node* node, PassContext*) {
  if (node->op() != Op::kLinear || node->num_operands() < 3 || !IsConstant(node->operand(2), 0)) return nullptr;
  return Replace(graph, node, Op::kLinear, {node->operand(0), node->operand(1)});
}

Rewrite MatmulOfWeight(Graph* graph, Node* node, PassContext*) {
  if (node->op() != Op::kMatmul) return nullptr;
  const Value* weight = node->operand(1);
  if (weight->kind() == ir::ValueKind::kWeight && weight->tensor().shape.size() == 2) {
    FF_ASSIGN_OR_RETURN(Value * transposed, AddBefore(graph, node, Op::kTranspose, {node->operand(1)},
                                                      {{"perm", std::vector<int64_t>{1, 0}}}));
    return Replace(graph, node, Op::kLinear, {node->operand(0), transposed});
  }
  const Node* transpose = DefinedBy(weight, Op::kTranspose);
  if (transpose == nullptr || transpose->operand(0)->kind() != ir::ValueKind::kWeight) return nullptr;
  if (transpose->attr<std::vector<int64_t>>("perm") != std::vector<int64_t>{1, 0}) return nullptr;
  return Replace(graph, node, Op::kLinear, {node->operand(0), transpose->operand(0)});
}

constexpr RewriteRule kRules[] = {NothingChanges,      NeutralElement, Undone,        Joined,
                                  TransposeOfUnitAxes, ZeroBias,       MatmulOfWeight};

}  // namespace

absl::StatusOr<bool> CanonicalizePass::Run(ir::Graph* graph, PassContext* context) const {
  // Ends: every rule removes a used node or replaces it by one that fewer rules fit.
  return ApplyRules(graph, kRules, context);
}

}  // namespace flashflow::passes
