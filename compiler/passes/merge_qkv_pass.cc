#include "compiler/passes/merge_qkv_pass.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "compiler/analysis/loaded_weight.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::passes {
namespace {

using ir::Graph;
using ir::Node;
using ir::Op;
using ir::Value;

bool IsWeight(const Value* value) { return value->kind() == ir::ValueKind::kWeight; }
Value* Bias(const Node& node) { return node.num_operands() > 2 ? node.operand(2) : nullptr; }

// A weight as it is, or stored transposed.
bool IsLayersWeight(const Value* value) {
  const std::optional<analysis::LoadedWeight> loaded = analysis::AsLoadedWeight(*value);
  return loaded.has_value() && loaded->sources.size() == 1;
}

// The linear layers of weights of their own by their input, groups and layers in program order.
std::vector<std::vector<Node*>> LayersByInput(const Graph& graph) {
  std::vector<std::vector<Node*>> groups;
  absl::flat_hash_map<const Value*, size_t> group_of;
  for (const auto& node : graph.nodes()) {
    if (node->op() != Op::kLinear || !IsLayersWeight(node->operand(1))) continue;
    if (Bias(*node) != nullptr && !IsWeight(Bias(*node))) continue;
    const auto [it, inserted] = group_of.try_emplace(node->operand(0), groups.size());
    if (inserted) groups.emplace_back();
    groups[it->second].push_back(node.get());
  }
  std::erase_if(groups, [](const std::vector<Node*>& group) { return group.size() < 2; });
  return groups;
}

// Why the layers cannot be one; empty if they can.
std::string Reason(const std::vector<Node*>& layers) {
  const Node& first = *layers[0];
  for (const Node* layer : layers) {
    if (!IsWeight(layer->operand(1))) return "a weight of theirs is stored transposed";
    if (layer->operand(1)->tensor().dtype != first.operand(1)->tensor().dtype) return "their weights differ in dtype";
    if ((Bias(*layer) == nullptr) != (Bias(first) == nullptr)) return "only some of them have a bias";
    if (Bias(first) != nullptr && Bias(*layer)->tensor().dtype != Bias(first)->tensor().dtype) {
      return "their biases differ in dtype";
    }
  }
  return "";
}

absl::Status Merge(Graph* graph, const std::vector<Node*>& layers) {
  Node* first = layers[0];
  const auto join = [&](auto&& operand) -> absl::StatusOr<Value*> {
    std::vector<Value*> parts;
    for (const Node* layer : layers) parts.push_back(operand(*layer));
    FF_ASSIGN_OR_RETURN(Node * node,
                        graph->AddNode(Op::kConcat, std::move(parts), {{"axis", int64_t{0}}}, first->loc(), first));
    return node->result();
  };
  FF_ASSIGN_OR_RETURN(Value * weight, join([](const Node& layer) { return layer.operand(1); }));
  Value* bias = nullptr;
  if (Bias(*first) != nullptr) {
    FF_ASSIGN_OR_RETURN(bias, join(Bias));
  }
  FF_ASSIGN_OR_RETURN(Node * merged,
                      graph->AddNode(Op::kLinear, {first->operand(0), weight, bias}, {}, first->loc(), first));
  DimExpr start = 0;
  for (Node* layer : layers) {
    const Dims& shape = layer->result()->tensor().shape;
    const DimExpr stop = start + shape.back();
    FF_ASSIGN_OR_RETURN(
        Node * slice,
        graph->AddNode(Op::kSlice, {merged->result()},
                       {{"axis", static_cast<int64_t>(shape.size()) - 1}, {"start", start}, {"stop", stop}},
                       layer->loc(), first));
    graph->ReplaceAllUsesWith(layer->result(), slice->result());
    start = stop;
  }
  for (Node* layer : layers) graph->Erase(layer);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<bool> MergeQkvPass::Run(Graph* graph, PassContext* context) const {
  for (const std::vector<Node*>& layers : LayersByInput(*graph)) {
    if (const std::string reason = Reason(layers); !reason.empty()) {
      context->Refuse(*graph, layers[0], reason);
      continue;
    }
    if (!context->BeginRewrite()) break;
    FF_RETURN_IF_ERROR(Merge(graph, layers));
  }
  return context->rewrites() > 0;
}

}  // namespace flashflow::passes
