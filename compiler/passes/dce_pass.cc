#include "compiler/passes/dce_pass.h"

#include <algorithm>
#include <vector>

namespace flashflow::passes {

absl::StatusOr<bool> DcePass::Run(ir::Graph* graph, PassContext* context) const {
  const int64_t before = context->rewrites();
  std::vector<ir::Node*> nodes;
  for (const auto& node : graph->nodes()) nodes.push_back(node.get());
  std::reverse(nodes.begin(), nodes.end());  // users before what they use
  for (ir::Node* node : nodes) {
    const auto used = [](const ir::Value* result) { return result->HasUses(); };
    if (node->def().effect == ir::Effect::kConsumesCache || std::ranges::any_of(node->results(), used)) continue;
    if (!context->BeginRewrite()) return context->rewrites() != before;
    graph->Erase(node);
  }
  const std::vector<ir::Value*> weights(graph->weights().begin(), graph->weights().end());
  for (ir::Value* weight : weights) {
    if (weight->HasUses()) continue;
    if (!context->BeginRewrite()) break;
    graph->EraseWeight(weight);
  }
  return context->rewrites() != before;
}

}  // namespace flashflow::passes
