#include "compiler/passes/linear_form.h"

#include <vector>

#include "compiler/analysis/loaded_weight.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::passes {

using ir::Node;
using ir::Op;
using ir::Value;

std::optional<LinearForm> LinearForm::Of(const Node& node) {
  if (node.op() != Op::kLinear && node.op() != Op::kFusedLinear) return std::nullopt;
  if (!analysis::IsMadeAtLoad(*node.operand(1))) return std::nullopt;
  const auto operand = [&node](int i) { return i < node.num_operands() ? node.operand(i) : nullptr; };
  LinearForm form = {.x = operand(0),
                     .weight = operand(1),
                     .bias = operand(2),
                     .dtype = node.result()->tensor().dtype,
                     .loc = node.loc()};
  if (node.op() == Op::kLinear) return form;
  form.residual = operand(3);
  form.norm_weight = operand(4);
  form.norm_bias = operand(5);
  form.norm = node.attr<std::string>("norm");
  form.eps = node.attr<double>("eps");
  form.activation = node.attr<std::string>("activation");
  form.gated = node.attr<bool>("gated");
  form.weight_scale = operand(6);
  form.clip = node.attr<double>("clip");
  return form;
}

std::optional<LinearForm> LinearForm::Of(const Value* value) {
  if (value == nullptr || value->def() == nullptr) return std::nullopt;
  return Of(*value->def());
}

absl::StatusOr<Value*> LinearForm::Build(ir::Graph* graph, Node* before) const {
  FF_ASSIGN_OR_RETURN(
      Node * node, graph->AddNode(Op::kFusedLinear, {x, weight, bias, residual, norm_weight, norm_bias, weight_scale},
                                  {{"norm", norm},
                                   {"eps", eps},
                                   {"activation", activation},
                                   {"gated", gated},
                                   {"clip", clip},
                                   {"dtype", dtype}},
                                  loc, before));
  return node->result();
}

bool HasOneUse(const Value* value) { return value->uses().size() == 1 && !value->IsOutput(); }

}  // namespace flashflow::passes
