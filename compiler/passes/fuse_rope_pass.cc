#include "compiler/passes/fuse_rope_pass.h"

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "compiler/passes/rewrite.h"

namespace flashflow::passes {
namespace {

using ir::Graph;
using ir::Node;
using ir::Op;
using ir::Value;

// concat(neg(second), first) along the last axis, both slices of x.
struct Exchange {
  Value* x;
  const Node* first;
  const Node* second;
};

std::optional<Exchange> MatchExchange(const Value* value) {
  const Node* concat = DefinedBy(value, Op::kConcat);
  if (concat == nullptr || concat->num_operands() != 2) return std::nullopt;
  const int64_t last = static_cast<int64_t>(value->tensor().shape.size()) - 1;
  const Node* neg = DefinedBy(concat->operand(0), Op::kNeg);
  const Node* second = neg == nullptr ? nullptr : DefinedBy(neg->operand(0), Op::kSlice);
  const Node* first = DefinedBy(concat->operand(1), Op::kSlice);
  if (first == nullptr || second == nullptr || first->operand(0) != second->operand(0)) return std::nullopt;
  for (const Node* node : {concat, first, second}) {
    if (node->attr<int64_t>("axis") != last) return std::nullopt;
  }
  return Exchange{first->operand(0), first, second};
}

// Why the exchanged slices are not the halves of x; empty if they are.
std::string Reason(const Exchange& exchange) {
  const DimExpr& channels = exchange.x->tensor().shape.back();
  const std::optional<DimExpr> half = channels.DividedBy(2);
  const auto is = [](const Node* slice, const DimExpr& start, const DimExpr& stop) {
    return slice->attr<DimExpr>("start") == start && slice->attr<DimExpr>("stop") == stop &&
           slice->attr<int64_t>("step") == 1;
  };
  if (half.has_value() && is(exchange.first, 0, *half) && is(exchange.second, *half, channels)) return "";
  return absl::StrCat("the parts that it exchanges are not the halves of ", channels.ToString(), " channels");
}

// Whether cos or sin has an angle for each channel, and fits x without widening it.
bool IsAngle(const Value* value, const Value* x) {
  const Dims& shape = value->tensor().shape;
  const Dims& wanted = x->tensor().shape;
  if (!IsFloat(value->tensor().dtype) || shape.empty() || shape.size() > wanted.size()) return false;
  for (size_t i = 0; i < shape.size(); ++i) {
    const DimExpr& dim = wanted[wanted.size() - shape.size() + i];
    if (shape[i] != dim && (shape[i] != DimExpr(1) || i + 1 == shape.size())) return false;
  }
  return true;
}

absl::StatusOr<Value*> FuseRope(Graph* graph, Node* node, PassContext* context) {
  if (node->op() != Op::kAdd) return nullptr;
  for (const int turned : {1, 0}) {
    const Node* straight = DefinedBy(node->operand(1 - turned), Op::kMul);
    const Node* crossed = DefinedBy(node->operand(turned), Op::kMul);
    if (straight == nullptr || crossed == nullptr) continue;
    for (const int at : {0, 1}) {
      const std::optional<Exchange> exchange = MatchExchange(crossed->operand(at));
      if (!exchange.has_value()) continue;
      Value* x = exchange->x;
      if (straight->operand(0) != x && straight->operand(1) != x) continue;
      if (const std::string reason = Reason(*exchange); !reason.empty()) {
        context->Refuse(*graph, node, reason);
        return nullptr;
      }
      Value* cos = straight->operand(straight->operand(0) == x ? 1 : 0);
      Value* sin = crossed->operand(1 - at);
      if (!IsAngle(cos, x) || !IsAngle(sin, x) || node->result()->type() != x->type()) continue;
      return AddBefore(graph, node, Op::kRope, {x, cos, sin});
    }
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<bool> FuseRopePass::Run(Graph* graph, PassContext* context) const {
  constexpr RewriteRule kRules[] = {FuseRope};
  return ApplyRules(graph, kRules, context);
}

}  // namespace flashflow::passes
