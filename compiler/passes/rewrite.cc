#include "compiler/passes/rewrite.h"

#include <utility>

#include "compiler/ir/status_macros.h"

namespace flashflow::passes {
namespace {

// One sweep; whether another may find more.
absl::StatusOr<bool> Sweep(ir::Graph* graph, absl::Span<const RewriteRule> rules, PassContext* context) {
  bool changed = false;
  std::vector<ir::Node*> nodes;
  for (const auto& node : graph->nodes()) nodes.push_back(node.get());
  for (ir::Node* node : nodes) {
    if (node->results().size() != 1 || !node->result()->HasUses()) continue;
    for (RewriteRule rule : rules) {
      FF_ASSIGN_OR_RETURN(ir::Value * replacement, rule(graph, node, context));
      if (replacement == nullptr) continue;
      if (!context->BeginRewrite()) return false;
      graph->ReplaceAllUsesWith(node->result(), replacement);
      changed = true;
      break;
    }
  }
  return changed;
}

}  // namespace

ir::Node* DefinedBy(const ir::Value* value, ir::Op op) {
  ir::Node* def = value == nullptr ? nullptr : value->def();
  return def != nullptr && def->op() == op ? def : nullptr;
}

std::optional<double> ConstantValue(const ir::Value* value) {
  const ir::Node* def = DefinedBy(value, ir::Op::kConstant);
  return def == nullptr ? std::nullopt : std::optional(def->attr<double>("value"));
}

bool IsConstant(const ir::Value* value, double number) { return ConstantValue(value) == number; }

absl::StatusOr<ir::Value*> AddBefore(ir::Graph* graph, ir::Node* before, ir::Op op, std::vector<ir::Value*> operands,
                                     AttrMap attrs) {
  FF_ASSIGN_OR_RETURN(ir::Node * node,
                      graph->AddNode(op, std::move(operands), std::move(attrs), before->loc(), before));
  return node->result();
}

absl::StatusOr<bool> ApplyRules(ir::Graph* graph, absl::Span<const RewriteRule> rules, PassContext* context) {
  const int64_t before = context->rewrites();
  while (true) {
    FF_ASSIGN_OR_RETURN(const bool swept, Sweep(graph, rules, context));
    if (!swept) return context->rewrites() > before;
  }
}

}  // namespace flashflow::passes
