#include "compiler/passes/fuse_norm_residual_pass.h"

#include <string>
#include <vector>

#include "compiler/ir/status_macros.h"
#include "compiler/passes/rewrite.h"

namespace flashflow::passes {
namespace {

using ir::Graph;
using ir::Node;
using ir::Op;
using ir::Value;

// Why the sum and its norm stay apart; empty if they can be one.
std::string Reason(const Node& norm, const Node& sum) {
  for (const Value* operand : sum.operands()) {
    if (operand->type() != sum.result()->type()) return "the sum broadcasts an operand";
  }
  for (const Value* operand : norm.operands().subspan(1)) {
    if (operand != nullptr && operand->def() != nullptr) return "the norm's weight or bias is computed";
  }
  return "";
}

absl::Status Fuse(Graph* graph, Node* norm, Node* sum) {
  std::vector<Value*> operands = {sum->operand(0), sum->operand(1)};
  operands.insert(operands.end(), norm->operands().begin() + 1, norm->operands().end());
  // Where the sum was: others may read it before the norm.
  FF_ASSIGN_OR_RETURN(
      Node * fused, graph->AddNode(Op::kAddNorm, std::move(operands),
                                   {{"norm", std::string(ir::OpName(norm->op()))}, {"eps", norm->attr<double>("eps")}},
                                   norm->loc(), sum));
  graph->ReplaceAllUsesWith(norm->result(), fused->result(1));
  graph->Erase(norm);
  graph->ReplaceAllUsesWith(sum->result(), fused->result(0));
  graph->Erase(sum);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<bool> FuseNormResidualPass::Run(Graph* graph, PassContext* context) const {
  std::vector<Node*> norms;
  for (const auto& node : graph->nodes()) {
    if (node->op() == Op::kLayerNorm || node->op() == Op::kRmsNorm) norms.push_back(node.get());
  }
  for (Node* norm : norms) {
    Node* sum = DefinedBy(norm->operand(0), Op::kAdd);
    if (sum == nullptr || !norm->result()->HasUses()) continue;
    if (const std::string reason = Reason(*norm, *sum); !reason.empty()) {
      context->Refuse(*graph, norm, reason);
      continue;
    }
    if (!context->BeginRewrite()) break;
    FF_RETURN_IF_ERROR(Fuse(graph, norm, sum));
  }
  return context->rewrites() > 0;
}

}  // namespace flashflow::passes
