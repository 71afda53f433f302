#include "compiler/passes/fuse_qkv_norm_pass.h"

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "compiler/ir/printer.h"
#include "compiler/ir/status_macros.h"
#include "compiler/passes/linear_form.h"

namespace flashflow::passes {
namespace {

using ir::Graph;
using ir::Node;
using ir::Op;

// Why the norm stays; empty if every use of it is a layer that can take it in.
std::string Reason(const Graph& graph, const Node& norm) {
  if (norm.result()->IsOutput()) return "its result is an output of the graph";
  for (const ir::Use& use : norm.result()->uses()) {
    const std::optional<LinearForm> form = LinearForm::Of(*use.node);
    if (!form.has_value() || use.operand_index != 0) {
      return absl::StrCat("its result is wanted by ", ir::Describe(graph, *use.node), " too");
    }
  }
  return "";
}

absl::Status Fuse(Graph* graph, Node* norm) {
  const std::vector<ir::Use> uses = norm->result()->uses();
  for (const ir::Use& use : uses) {
    LinearForm form = *LinearForm::Of(*use.node);
    form.x = norm->operand(0);
    form.norm = ir::OpName(norm->op());
    form.eps = norm->attr<double>("eps");
    form.norm_weight = norm->num_operands() > 1 ? norm->operand(1) : nullptr;
    form.norm_bias = norm->num_operands() > 2 ? norm->operand(2) : nullptr;
    FF_ASSIGN_OR_RETURN(ir::Value * fused, form.Build(graph, use.node));
    graph->ReplaceAllUsesWith(use.node->result(), fused);
    graph->Erase(use.node);
  }
  graph->Erase(norm);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<bool> FuseQkvNormPass::Run(Graph* graph, PassContext* context) const {
  std::vector<Node*> norms;
  for (const auto& node : graph->nodes()) {
    if (node->op() == Op::kLayerNorm || node->op() == Op::kRmsNorm) norms.push_back(node.get());
  }
  for (Node* norm : norms) {
    if (!norm->result()->HasUses()) continue;
    if (const std::string reason = Reason(*graph, *norm); !reason.empty()) {
      context->Refuse(*graph, norm, reason);
      continue;
    }
    if (!context->BeginRewrite()) break;
    FF_RETURN_IF_ERROR(Fuse(graph, norm));
  }
  return context->rewrites() > 0;
}

}  // namespace flashflow::passes
