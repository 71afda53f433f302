#include "compiler/passes/quantize_int8_pass.h"

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "compiler/analysis/loaded_weight.h"
#include "compiler/ir/printer.h"
#include "compiler/ir/status_macros.h"
#include "compiler/passes/linear_form.h"
#include "compiler/passes/token_lookup.h"
#include "compiler/passes/unknown_name.h"

namespace flashflow::passes {
namespace {

using ir::Graph;
using ir::Node;
using ir::Op;
using ir::Value;

constexpr std::string_view kClipPrefix = "clip.", kPrecisionPrefix = "precision.";
constexpr double kNoClip = std::numeric_limits<double>::infinity();

// What the metadata says of a weight.
struct Setting {
  double clip = kNoClip;
  bool stays_float = false;
};
using Settings = absl::flat_hash_map<const Value*, Setting>;  // by weight

absl::StatusOr<Settings> ReadSettings(const Graph& graph) {
  Settings settings;
  for (const auto& [key, attr] : graph.metadata()) {
    std::string_view name = key;
    const bool is_clip = absl::ConsumePrefix(&name, kClipPrefix);
    if (!is_clip && !absl::ConsumePrefix(&name, kPrecisionPrefix)) continue;
    const Value* weight = graph.FindWeight(name);
    if (weight == nullptr) {
      std::vector<std::string> names;
      for (const Value* known : graph.weights()) names.push_back(known->name());
      return UnknownName(is_clip ? "weight in the metadata's clips" : "weight in the metadata's precisions", name,
                         names);
    }
    const auto expected = [&](std::string_view what) {
      return absl::InvalidArgumentError(
          absl::StrCat("metadata ", key, ": expected ", what, ", got ", AttrToString(attr)));
    };
    Setting& setting = settings[weight];
    if (is_clip) {
      const auto* clip = std::get_if<double>(&attr);
      if (clip == nullptr || !(*clip > 0)) return expected("a float above 0");
      setting.clip = *clip;
    } else {
      const auto* precision = std::get_if<std::string>(&attr);
      if (precision == nullptr || (*precision != "float" && *precision != "int8")) {
        return expected("\"float\" or \"int8\"");
      }
      setting.stays_float = *precision == "float";
    }
  }
  return settings;
}

Setting SettingOf(const Settings& settings, const Value* weight) {
  const auto it = settings.find(weight);
  return it == settings.end() ? Setting{} : it->second;
}

bool IsLookupOfFloats(const Node& node) {
  return IsTokenLookup(node) && node.operand(0)->kind() == ir::ValueKind::kWeight &&
         IsFloat(node.operand(0)->tensor().dtype);
}

constexpr std::string_view kStaysFloat = "the metadata keeps its weight in floats";

// The clip of the layer's x, a layer with a stored weight; or why the layer stays as it is.
struct Decision {
  double clip = kNoClip;
  std::string refusal = {};
};

Decision Decide(const LinearForm& layer, const Settings& settings) {
  const std::optional<analysis::LoadedWeight> loaded = analysis::AsLoadedWeight(*layer.weight);
  if (!loaded.has_value()) return {.refusal = "its weight is computed, not stored"};
  if (layer.norm != "none") return {.refusal = "the norm before it is fused into it already"};
  if (layer.has_epilogue()) return {.refusal = "what comes after it is fused into it already"};
  std::optional<double> clip;
  for (const Value* part : loaded->sources) {
    const Setting own = SettingOf(settings, part);
    if (own.stays_float) return {.refusal = std::string(kStaysFloat)};
    if (clip.has_value() && *clip != own.clip) {
      return {.refusal = absl::StrCat("the weights that it joins have different clips, ", *clip, " and ", own.clip)};
    }
    clip = own.clip;
  }
  return {.clip = *clip};
}

Decision DecideLookup(const Node& lookup, const Settings& settings) {
  if (SettingOf(settings, lookup.operand(0)).stays_float) return {.refusal = std::string(kStaysFloat)};
  return {};
}

}  // namespace

absl::StatusOr<bool> QuantizeInt8Pass::Run(Graph* graph, PassContext* context) const {
  if (context->options().quantize != "int8") return false;
  FF_ASSIGN_OR_RETURN(const Settings settings, ReadSettings(*graph));
  std::vector<Node*> nodes;  // layers and lookups
  for (const auto& node : graph->nodes()) {
    if (IsLookupOfFloats(*node)) nodes.push_back(node.get());
    if (node->op() != Op::kLinear && node->op() != Op::kFusedLinear) continue;
    const std::optional<LinearForm> layer = LinearForm::Of(*node);
    if (!layer.has_value()) {
      context->Refuse(*graph, node.get(), "its weight is computed, not stored");
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
