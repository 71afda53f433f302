#include "compiler/passes/quantize_int4_pass.h"

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
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

// Why the layer stays as it is; empty if it does not.
std::string RefusalOf(const Node& node, const QuantizeSettings& settings) {
  const std::optional<LinearForm> layer = LinearForm::Of(node);
  if (!layer.has_value()) return std::string(kWeightIsComputed);
  const std::optional<analysis::LoadedWeight> loaded = analysis::AsLoadedWeight(*layer->weight);
  if (!loaded.has_value()) return "its weight has codes already";
  if (const std::string_view fused = WhyFusedLayerStays(*layer); !fused.empty()) return std::string(fused);
  for (const Value* part : loaded->sources) {
    using enum QuantizeSetting::Precision;
    const QuantizeSetting::Precision precision = settings[part].precision;
    if (precision == kFloat) return std::string(kWeightStaysFloat);
    if (precision == kInt8) return "the metadata gives its weight 8 bits";
    const auto is_table = [](const ir::Use& use) { return IsLookupOfFloats(*use.node); };
    if (std::ranges::any_of(part->uses(), is_table)) return "its weight is a table of tokens: 8 bits";
  }
  if (loaded->transposed) return "its weight is stored transposed";
  if (node.result()->IsOutput()) return "its result leaves the graph: 8 bits";
  const DimExpr& k = layer->weight->tensor().shape[1];
  if (!k.DividedBy(kCodeGroup).has_value()) {
    return absl::StrCat("rows of ", k.ToString(), " are not whole groups of ", kCodeGroup);
  }
  return "";
}

}  // namespace

absl::StatusOr<bool> QuantizeInt4Pass::Run(ir::Graph* graph, PassContext* context) const {
  if (context->options().quantize != "int4") return false;
  FF_ASSIGN_OR_RETURN(const QuantizeSettings settings, QuantizeSettings::Of(*graph));
  std::vector<Node*> layers;
  for (const auto& node : graph->nodes()) {
    if (node->op() == Op::kLinear || node->op() == Op::kFusedLinear) layers.push_back(node.get());
  }
  for (Node* node : layers) {
    if (const std::string refusal = RefusalOf(*node, settings); !refusal.empty()) {
      context->Refuse(*graph, node, refusal);
      continue;
    }
    if (!context->BeginRewrite()) break;
    LinearForm layer = *LinearForm::Of(*node);
    FF_ASSIGN_OR_RETURN(const Node* coded,
                        graph->AddNode(Op::kQuantize, {layer.weight}, {{"group", kCodeGroup}}, node->loc(), node));
    layer.weight = coded->result(0);
    layer.weight_scale = coded->result(1);
    FF_ASSIGN_OR_RETURN(Value* const quantized, layer.Build(graph, node));
    graph->ReplaceAllUsesWith(node->result(), quantized);
    graph->Erase(node);
  }
  return context->rewrites() > 0;
}

}  // namespace flashflow::passes
