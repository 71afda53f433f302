#include "compiler/passes/narrow_weights_pass.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "compiler/analysis/loaded_weight.h"
#include "compiler/ir/printer.h"
#include "compiler/ir/status_macros.h"
#include "compiler/passes/token_lookup.h"

namespace flashflow::passes {
namespace {

using ir::Node;
using ir::Op;
using ir::Value;

absl::StatusOr<std::string> MetadataDType(const ir::Graph& graph) {
  auto it = graph.metadata().find("dtype");
  if (it == graph.metadata().end()) return std::string();
  const auto* dtype = std::get_if<std::string>(&it->second);
  if (dtype == nullptr || (*dtype != "f32" && *dtype != "bf16")) {
    return absl::InvalidArgumentError(
        absl::StrCat("metadata dtype: expected \"f32\" or \"bf16\", got ", AttrToString(it->second)));
  }
  return *dtype;
}

// A weight that is stored transposed: the transposing node goes where the weight is loaded.
bool IsTransposedForLayers(const Node& node) {
  return node.op() == Op::kTranspose && analysis::AsLoadedWeight(*node.result()).has_value();
}

// Whether the metadata keep a weight of a quantized model in floats.
bool StaysFloat(const ir::Graph& graph, const Value* weight) {
  const auto it = graph.metadata().find(absl::StrCat("precision.", weight->name()));
  const auto* precision = it == graph.metadata().end() ? nullptr : std::get_if<std::string>(&it->second);
  return precision != nullptr && *precision == "float";
}

// Why a weight that a product or a lookup streams stays as it is; empty if it is narrowed; nullopt if it is not of the
// kind.
std::optional<std::string> ReasonAgainst(const ir::Graph& graph, const Value* weight, bool quantize) {
  const bool coded = quantize && !StaysFloat(graph, weight);
  if (weight->tensor().dtype != DType::kF32 || weight->tensor().shape.size() != 2) return std::nullopt;
  bool streamed = false;
  std::string reason;
  for (const ir::Use& use : weight->uses()) {
    const bool product = IsTransposedForLayers(*use.node) || (use.node->op() == Op::kLinear && use.operand_index == 1);
    const bool table = IsTokenLookup(*use.node) && use.operand_index == 0;
    if ((product || table) && coded) return std::nullopt;  // codes are made of what is stored
    if (product || table) {
      streamed = true;
    } else {
      reason = absl::StrCat("weight ", QuoteString(weight->name()), " is also used by ", ir::Describe(graph, *use.node),
                            ", which reads f32");
    }
  }
  if (!streamed) return std::nullopt;
  return reason;
}

// For a node whose operand has another type now.
absl::Status MakeAnew(ir::Graph* graph, Node* node) {
  const std::vector<Value*> operands(node->operands().begin(), node->operands().end());
  FF_ASSIGN_OR_RETURN(Node * anew, graph->AddNode(node->op(), operands, node->attrs(), node->loc(), node));
  graph->ReplaceAllUsesWith(node->result(), anew->result());
  graph->Erase(node);
  return absl::OkStatus();
}

absl::Status NarrowWeights(ir::Graph* graph, PassContext* context) {
  for (Value* weight : graph->weights()) {
    const std::optional<std::string> reason = ReasonAgainst(*graph, weight, !context->options().quantize.empty());
    if (!reason.has_value()) continue;
    if (!reason->empty()) {
      context->Refuse(*graph, nullptr, *reason);
      continue;
    }
    if (!context->BeginRewrite()) break;
    graph->SetType(weight, ir::TensorType{DType::kBF16, weight->tensor().shape});
    const std::vector<ir::Use> uses = weight->uses();
    for (const ir::Use& use : uses) {
      if (use.node->op() == Op::kTranspose) FF_RETURN_IF_ERROR(MakeAnew(graph, use.node));
    }
  }
  return absl::OkStatus();
}

// Gives the caches the dtype; their chains of kv_append are made anew.
absl::Status NarrowCaches(ir::Graph* graph, DType dtype, PassContext* context) {
  for (Value* input : graph->inputs()) {
    if (!input->type().is_cache()) continue;
    ir::CacheType type = input->type().cache();
    if (type.dtype == dtype || type.dtype == DType::kI8) continue;
    if (dtype == DType::kI8 && type.dtype != DType::kF32) {
      return absl::InvalidArgumentError(absl::StrCat("the KV cache is ", DTypeName(type.dtype),
                                                     " already: build the graph from its f32 source for int8 codes"));
    }
    type.dtype = dtype;
    if (!context->BeginRewrite()) return absl::OkStatus();
    graph->SetType(input, type);
    std::vector<Node*> appends;
    for (const auto& node : graph->nodes()) {
      if (node->op() == Op::kKvAppend) appends.push_back(node.get());
    }
    for (Node* node : appends) FF_RETURN_IF_ERROR(MakeAnew(graph, node));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<bool> NarrowWeightsPass::Run(ir::Graph* graph, PassContext* context) const {
  FF_ASSIGN_OR_RETURN(const std::string recorded, MetadataDType(*graph));
  std::string dtype = context->options().dtype.empty() ? recorded : context->options().dtype;
  if (dtype.empty()) dtype = "f32";
  if (dtype == "f32" && recorded == "bf16") {
    return absl::InvalidArgumentError(
        "the graph's weights are bf16 already: build it from its f32 source for dtype f32");
  }
  const bool noted = recorded != dtype;
  graph->metadata()["dtype"] = dtype;
  const int64_t before = context->rewrites();
  if (dtype == "bf16") FF_RETURN_IF_ERROR(NarrowWeights(graph, context));
  const bool coded = context->options().kv_dtype == "int8";
  if (coded || dtype == "bf16") FF_RETURN_IF_ERROR(NarrowCaches(graph, coded ? DType::kI8 : DType::kBF16, context));
  return noted || context->rewrites() != before;
}

}  // namespace flashflow::passes
