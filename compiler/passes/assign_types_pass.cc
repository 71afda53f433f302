#include "compiler/passes/assign_types_pass.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "compiler/ir/printer.h"
#include "compiler/ir/status_macros.h"
#include "compiler/passes/linear_form.h"
#include "compiler/passes/rewrite.h"

namespace flashflow::passes {
namespace {

using ir::Graph;
using ir::Node;
using ir::Op;
using ir::Use;
using ir::Value;

bool IsF32(const Value* value) { return value->type().is_tensor() && value->tensor().dtype == DType::kF32; }

// The narrow value that a cast back to f32 shows; nullptr for any other value.
Value* Narrow(Value* value, DType dtype) {
  const Node* cast = DefinedBy(value, Op::kCast);
  return cast != nullptr && IsF32(value) && cast->operand(0)->tensor().dtype == dtype ? cast->operand(0) : nullptr;
}

// How many of the operation's first operands become narrow together; weights and angles behind them keep f32. nullopt
// for an operation that has no narrow form.
std::optional<size_t> NarrowOperands(Op op) {
  switch (op) {
    case Op::kLayerNorm:
    case Op::kRmsNorm:
    case Op::kRope:
    case Op::kGatherRows:
    case Op::kReshape:
    case Op::kTranspose:
    case Op::kSlice:
    case Op::kGelu:
    case Op::kSilu:
    case Op::kRelu:
      return 1;
    case Op::kAdd:
    case Op::kMul:
    case Op::kAddNorm:
    case Op::kPagedAttention:   // the cache, q
    case Op::kCachedAttention:  // the cache, qkv
      return 2;
    case Op::kKvAppend:  // the cache, k, v
      return 3;
    case Op::kConcat:
      return std::numeric_limits<size_t>::max();
    default:
      return std::nullopt;
  }
}

class Assigner {
 public:
  Assigner(Graph* graph, DType dtype, PassContext* context) : graph_(graph), dtype_(dtype), context_(context) {}

  absl::Status Run() {
    std::vector<Node*> nodes;
    for (const auto& node : graph_->nodes()) nodes.push_back(node.get());
    for (Node* node : nodes) {
      if (std::ranges::none_of(node->results(), [](const Value* result) { return result->HasUses(); })) continue;
      FF_ASSIGN_OR_RETURN(Node * narrow, Rebuild(node));
      if (narrow == nullptr) continue;
      if (!context_->BeginRewrite()) {
        graph_->Erase(narrow);
        return absl::OkStatus();
      }
      FF_RETURN_IF_ERROR(Replace(node, narrow));
    }
    return absl::OkStatus();
  }

 private:
  // The node in narrow types, before the node; nullptr where it stays.
  absl::StatusOr<Node*> Rebuild(Node* node) {
    if (node->op() == Op::kEmbedding) return RebuildEmbedding(node);
    if (LinearForm::Of(*node).has_value()) return RebuildLinear(node);
    std::vector<Value*> operands(node->operands().begin(), node->operands().end());
    bool any = false;
    for (Value*& operand : operands) {
      Value* narrow = operand == nullptr ? nullptr : Narrow(operand, dtype_);
      any |= narrow != nullptr;
      if (narrow != nullptr) operand = narrow;
    }
    if (!any || node->op() == Op::kCast) return nullptr;
    if (const std::string reason = ReasonAgainst(*node, operands); !reason.empty()) {
      context_->Refuse(*graph_, node, reason);
      return nullptr;
    }
    return graph_->AddNode(node->op(), std::move(operands), node->attrs(), node->loc(), node);
  }

  std::string ReasonAgainst(const Node& node, const std::vector<Value*>& operands) const {
    for (const Value* result : node.results()) {
      if (result->type().is_tensor() && result->IsOutput()) return "its result is an output of the graph";
      if (result->type().is_tensor() && !IsF32(result)) return "its result is not of f32";
    }
    const std::optional<size_t> narrow = NarrowOperands(node.op());
    if (!narrow.has_value()) return absl::StrCat(ir::OpName(node.op()), " has no form of ", DTypeName(dtype_));
    for (size_t i = 0; i < std::min(*narrow, operands.size()); ++i) {
      if (operands[i] != nullptr && IsF32(operands[i])) return absl::StrCat("operand ", i, " stays f32");
    }
    return "";
  }

  // What enters the residual stream, unlike tables of angles.
  absl::StatusOr<Node*> RebuildEmbedding(Node* node) {
    constexpr Op kOfTheStream[] = {Op::kAdd, Op::kAddNorm, Op::kLayerNorm, Op::kRmsNorm, Op::kLinear, Op::kFusedLinear};
    const bool joins = std::ranges::all_of(node->result()->uses(), [&](const Use& use) {
      return std::ranges::find(kOfTheStream, use.node->op()) != std::end(kOfTheStream);
    });
    if (!IsF32(node->result()) || node->result()->IsOutput() || !joins) return nullptr;
    AttrMap attrs = node->attrs();
    attrs["dtype"] = dtype_;
    const std::vector<Value*> operands(node->operands().begin(), node->operands().end());
    return graph_->AddNode(Op::kEmbedding, operands, std::move(attrs), node->loc(), node);
  }

  // A layer reads either type, whatever it gives.
  absl::StatusOr<Node*> RebuildLinear(Node* node) {
    if (!IsF32(node->result())) return nullptr;
    LinearForm form = *LinearForm::Of(*node);
    Value* narrow_x = Narrow(form.x, dtype_);
    if (narrow_x != nullptr) form.x = narrow_x;
    if (node->result()->IsOutput()) {
      if (narrow_x == nullptr) return nullptr;
    } else {
      form.dtype = dtype_;
      if (form.residual != nullptr) {
        Value* residual = Narrow(form.residual, dtype_);
        if (residual == nullptr) {
          context_->Refuse(*graph_, node, "its residual stays f32");
          return nullptr;
        }
        form.residual = residual;
      }
    }
    FF_ASSIGN_OR_RETURN(const Value* fused, form.Build(graph_, node));
    return fused->def();
  }

  // Nodes not looked at yet read casts back to f32, so that the graph is sound after every rewrite.
  absl::Status Replace(Node* node, Node* narrow) {
    for (size_t i = 0; i < node->results().size(); ++i) {
      Value* from = node->results()[i];
      Value* to = narrow->results()[i];
      const std::vector<Use> uses = from->uses();
      const bool changed = from->type() != to->type();
      graph_->ReplaceAllUsesWith(from, to);
      if (!changed || uses.empty() || !to->type().is_tensor()) continue;
      FF_ASSIGN_OR_RETURN(Value * cast, AddBefore(graph_, node, Op::kCast, {to}, {{"dtype", DType::kF32}}));
      for (const Use& use : uses) graph_->SetOperand(use.node, use.operand_index, cast);
    }
    graph_->Erase(node);
    return absl::OkStatus();
  }

  Graph* graph_;
  DType dtype_;
  PassContext* context_;
};

}  // namespace

absl::StatusOr<bool> AssignTypesPass::Run(Graph* graph, PassContext* context) const {
  if (context->options().activation_dtype != "bf16") return false;
  FF_RETURN_IF_ERROR(Assigner(graph, DType::kBF16, context).Run());
  return context->rewrites() > 0;
}

}  // namespace flashflow::passes
