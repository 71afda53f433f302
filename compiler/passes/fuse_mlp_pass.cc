#include "compiler/passes/fuse_mlp_pass.h"

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "compiler/ir/status_macros.h"
#include "compiler/passes/linear_form.h"
#include "compiler/passes/rewrite.h"

namespace flashflow::passes {
namespace {

using ir::Graph;
using ir::Node;
using ir::Op;
using ir::Value;

// fused_linear's name of what the node computes; empty if it is no activation.
std::string ActivationOf(const Node& node) {
  switch (node.op()) {
    case Op::kGelu:
      return node.attr<std::string>("approximate") == "tanh" ? "gelu_tanh" : "gelu";
    case Op::kSilu:
      return "silu";
    case Op::kRelu:
      return IsFloat(node.result()->tensor().dtype) ? "relu" : "";
    default:
      return "";
  }
}

// A half of the last axis of a value.
struct Half {
  Value* whole;
  bool second;
};

std::optional<Half> MatchHalf(const Value* value) {
  const Node* slice = DefinedBy(value, Op::kSlice);
  if (slice == nullptr || slice->attr<int64_t>("step") != 1) return std::nullopt;
  const Dims& shape = slice->operand(0)->tensor().shape;
  const std::optional<DimExpr> half = shape.back().DividedBy(2);
  if (!half.has_value() || slice->attr<int64_t>("axis") + 1 != static_cast<int64_t>(shape.size())) return std::nullopt;
  const DimExpr& start = slice->attr<DimExpr>("start");
  const DimExpr& stop = slice->attr<DimExpr>("stop");
  if (start == DimExpr(0) && stop == *half) return Half{slice->operand(0), false};
  if (start == *half && stop == shape.back()) return Half{slice->operand(0), true};
  return std::nullopt;
}

// Whether a weight or bias consists of two halves, joined.
bool IsTwoHalves(const Value* joined) {
  const Node* concat = DefinedBy(joined, Op::kConcat);
  return concat != nullptr && concat->num_operands() == 2 && concat->attr<int64_t>("axis") == 0 &&
         concat->operand(0)->tensor().shape[0] == concat->operand(1)->tensor().shape[0];
}

// The two halves in the other order.
absl::StatusOr<Value*> Exchanged(Graph* graph, Node* before, const Value* joined) {
  const Node* concat = joined->def();
  return AddBefore(graph, before, Op::kConcat, {concat->operand(1), concat->operand(0)}, concat->attrs());
}

// Exchanges the halves of the layer's weight, beneath its codes if it has some, and of its bias. False, before anything
// is added to the graph, if they are not joined of two.
absl::StatusOr<bool> ExchangeHalves(Graph* graph, Node* before, LinearForm* form) {
  const Node* codes = DefinedBy(form->weight, Op::kQuantize);
  const Value* stored = codes == nullptr ? form->weight : codes->operand(0);
  if (!IsTwoHalves(stored) || (form->bias != nullptr && !IsTwoHalves(form->bias))) return false;
  FF_ASSIGN_OR_RETURN(form->weight, Exchanged(graph, before, stored));
  if (codes != nullptr) {
    FF_ASSIGN_OR_RETURN(const Node* exchanged,
                        graph->AddNode(Op::kQuantize, {form->weight}, codes->attrs(), codes->loc(), before));
    form->weight = exchanged->result(0);
    form->weight_scale = exchanged->result(1);
  }
  if (form->bias != nullptr) {
    FF_ASSIGN_OR_RETURN(form->bias, Exchanged(graph, before, form->bias));
  }
  return true;
}

// mul(activation(gate half), up half)
absl::StatusOr<Value*> FuseGated(Graph* graph, Node* node, PassContext* context) {
  if (node->op() != Op::kMul) return nullptr;
  for (const int at : {0, 1}) {
    const Node* activation = node->operand(at)->def();
    if (activation == nullptr || ActivationOf(*activation).empty()) continue;
    const std::optional<Half> gate = MatchHalf(activation->operand(0));
    const std::optional<Half> up = MatchHalf(node->operand(1 - at));
    if (!gate.has_value() || !up.has_value() || gate->whole != up->whole || gate->second == up->second) continue;
    std::optional<LinearForm> form = LinearForm::Of(gate->whole);
    if (!form.has_value() || form->has_epilogue()) continue;
    if (gate->whole->uses().size() != 2 || gate->whole->IsOutput() || !HasOneUse(activation->operand(0)) ||
        !HasOneUse(node->operand(at)) || !HasOneUse(node->operand(1 - at))) {
      context->Refuse(*graph, node, "the gate's or the other half's products are wanted elsewhere too");
      return nullptr;
    }
    if (gate->second) {
      FF_ASSIGN_OR_RETURN(const bool exchanged, ExchangeHalves(graph, node, &*form));
      if (!exchanged) {
        context->Refuse(*graph, node, "the gate is the second half of a weight that is not joined from two");
        return nullptr;
      }
    }
    form->activation = ActivationOf(*activation);
    form->gated = true;
    return form->Build(graph, node);
  }
  return nullptr;
}

absl::StatusOr<Value*> FuseActivation(Graph* graph, Node* node, PassContext* context) {
  const std::string activation = ActivationOf(*node);
  if (activation.empty()) return nullptr;
  std::optional<LinearForm> form = LinearForm::Of(node->operand(0));
  if (!form.has_value() || form->has_epilogue()) return nullptr;
  if (!HasOneUse(node->operand(0))) {
    context->Refuse(*graph, node, "the layer's products are wanted elsewhere too");
    return nullptr;
  }
  form->activation = activation;
  return form->Build(graph, node);
}

}  // namespace

absl::StatusOr<bool> FuseMlpPass::Run(Graph* graph, PassContext* context) const {
  constexpr RewriteRule kRules[] = {FuseGated, FuseActivation};
  return ApplyRules(graph, kRules, context);
}

}  // namespace flashflow::passes
