#include "compiler/passes/quantize_int8_pass.h"

#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "compiler/analysis/loaded_weight.h"
#include "compiler/ir/status_macros.h"
#include "compiler/passes/linear_form.h"
#include "compiler/passes/quantize_settings.h"

namespace flashflow::passes {
namespace {

using ir::Node;
using ir::Op;
using ir::Value;

// The clip of the layer's x, a layer with a stored weight; or why the layer stays as it is.
struct Decision {
  double clip = kNoClip;
  std::string refusal = {};
};

bool StaysFloat(const QuantizeSetting& setting) { return setting.precision == QuantizeSetting::Precision::kFloat; }

Decision Decide(const LinearForm& layer, const QuantizeSettings& settings) {
  const std::optional<analysis::LoadedWeight> loaded = analysis::AsLoadedWeight(*layer.weight);
  if (!loaded.has_value()) return {.refusal = std::string(kWeightIsComputed)};
  if (const std::string_view fused = WhyFusedLayerStays(layer); !fused.empty()) return {.refusal = std::string(fused)};
  std::optional<double> clip;
  for (const Value* part : loaded->sources) {
    const QuantizeSetting own = settings[part];
    if (StaysFloat(own)) return {.refusal = std::string(kWeightStaysFloat)};
    if (clip.has_value() && *clip != own.clip) {
      return {.refusal = absl::StrCat("the weights that it joins have different clips, ", *clip, " and ", own.clip)};
    }
    clip = own.clip;
  }
  return {.clip = *clip};
}

Decision DecideLookup(const Node& lookup, const QuantizeSettings& settings) {
  if (StaysFloat(settings[lookup.operand(0)])) return {.refusal = std::string(kWeightStaysFloat)};
  return {};
}

}  // namespace

absl::StatusOr<bool> QuantizeInt8Pass::Run(ir::Graph* graph, PassContext* context) const {
  if (context->options().quantize.empty()) return false;
  FF_ASSIGN_OR_RETURN(const QuantizeSettings settings, QuantizeSettings::Of(*graph));
  std::vector<Node*> nodes;  // layers and lookups
  for (const auto& node : graph->nodes()) {
    if (IsLookupOfFloats(*node)) nodes.push_back(node.get());
    if (node->op() != Op::kLinear && node->op() != Op::kFusedLinear) continue;
    const std::optional<LinearForm> layer = LinearForm::Of(*node);
    if (!layer.has_value()) {
      context->Refuse(*graph, node.get(), std::string(kWeightIsComputed));
    } else if (layer->weight_scale == nullptr) {
      nodes.push_back(node.get());
    }
  }
  // The codes of a weight, made before its first use.
  absl::flat_hash_map<const Value*, const Node*> codes_of;
  const auto codes = [&](Value* weight, Node* before) -> absl::StatusOr<const Node*> {
    const Node*& made = codes_of[weight];
    if (made == nullptr) {
      FF_ASSIGN_OR_RETURN(made, graph->AddNode(Op::kQuantize, {weight}, {}, before->loc(), before));
    }
    return made;
  };
  for (Node* node : nodes) {
    const bool lookup = node->op() == Op::kEmbedding;
    std::optional<LinearForm> layer = LinearForm::Of(*node);
    const Decision decision = lookup ? DecideLookup(*node, settings) : Decide(*layer, settings);
    if (!decision.refusal.empty()) {
      context->Refuse(*graph, node, decision.refusal);
      continue;
    }
    if (!context->BeginRewrite()) break;
    FF_ASSIGN_OR_RETURN(const Node* coded, codes(node->operand(lookup ? 0 : 1), node));
    Value* quantized = nullptr;
    if (lookup) {
      FF_ASSIGN_OR_RETURN(const Node* anew,
                          graph->AddNode(Op::kEmbedding, {coded->result(0), node->operand(1), coded->result(1)},
                                         node->attrs(), node->loc(), node));
      quantized = anew->result();
    } else {
      layer->weight = coded->result(0);
      layer->weight_scale = coded->result(1);
      layer->clip = decision.clip;
      FF_ASSIGN_OR_RETURN(quantized, layer->Build(graph, node));
    }
    graph->ReplaceAllUsesWith(node->result(), quantized);
    graph->Erase(node);
  }
  return context->rewrites() > 0;
}

}  // namespace flashflow::passes
