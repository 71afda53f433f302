#include "compiler/passes/cse_pass.h"

#include <string>
#include <tuple>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"

namespace flashflow::passes {
namespace {

// What makes two pure nodes compute the same: attributes as text, which differs wherever they do.
using Key = std::tuple<ir::Op, std::vector<const ir::Value*>, std::string>;

Key KeyOf(const ir::Node& node) {
  std::string attrs;
  for (const auto& [name, value] : node.attrs()) absl::StrAppend(&attrs, name, "=", AttrToString(value), ";");
  return {node.op(), {node.operands().begin(), node.operands().end()}, std::move(attrs)};
}

}  // namespace

absl::StatusOr<bool> CsePass::Run(ir::Graph* graph, PassContext* context) const {
  const int64_t before = context->rewrites();
  absl::flat_hash_set<const ir::Value*> outputs;
  for (const ir::Output& output : graph->outputs()) outputs.insert(output.value);
  absl::flat_hash_map<Key, ir::Node*> first;
  for (const auto& node : graph->nodes()) {
    const auto [it, inserted] = first.try_emplace(KeyOf(*node), node.get());
    if (inserted || node->results().size() != 1 || !node->result()->HasUses()) continue;
    if (node->def().effect != ir::Effect::kPure) {
      context->Refuse(*graph, node.get(), "it repeats an earlier node, but operations on the cache are never merged");
      continue;
    }
    if (outputs.contains(node->result()) && outputs.contains(it->second->result())) {
      context->Refuse(*graph, node.get(), "it repeats an earlier node, but both are outputs, which keep a value each");
      continue;
    }
    if (!context->BeginRewrite()) break;
    graph->ReplaceAllUsesWith(node->result(), it->second->result());
    if (outputs.contains(node->result())) outputs.insert(it->second->result());
  }
  return context->rewrites() != before;
}

}  // namespace flashflow::passes
