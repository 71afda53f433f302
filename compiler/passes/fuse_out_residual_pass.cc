#include "compiler/passes/fuse_out_residual_pass.h"

#include <optional>

#include "compiler/passes/linear_form.h"
#include "compiler/passes/rewrite.h"

namespace flashflow::passes {
namespace {

using ir::Graph;
using ir::Node;
using ir::Op;
using ir::Value;

absl::StatusOr<Value*> FuseResidual(Graph* graph, Node* node, PassContext* context) {
  if (node->op() != Op::kAdd) return nullptr;
  bool refused = false;
  for (const int at : {1, 0}) {  // models write x + f(x)
    Value* residual = node->operand(1 - at);
    std::optional<LinearForm> form = LinearForm::Of(node->operand(at));
    if (!form.has_value() || form->residual != nullptr) continue;
    if (node->operand(at)->type() != node->result()->type() || residual->type() != node->result()->type()) continue;
    if (!HasOneUse(node->operand(at))) {
      refused = true;
      continue;
    }
    form->residual = residual;
    return form->Build(graph, node);
  }
  if (refused) context->Refuse(*graph, node, "the layer's result is wanted without the sum too");
  return nullptr;
}

}  // namespace

absl::StatusOr<bool> FuseOutResidualPass::Run(Graph* graph, PassContext* context) const {
  constexpr RewriteRule kRules[] = {FuseResidual};
  return ApplyRules(graph, kRules, context);
}

}  // namespace flashflow::passes
