#include "compiler/passes/quantize_settings.h"

#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "compiler/ir/attr.h"
#include "compiler/passes/token_lookup.h"
#include "compiler/passes/unknown_name.h"

namespace flashflow::passes {

using ir::Value;

absl::StatusOr<QuantizeSettings> QuantizeSettings::Of(const ir::Graph& graph) {
  QuantizeSettings settings;
  for (const auto& [key, attr] : graph.metadata()) {
    std::string_view name = key;
    const bool is_clip = absl::ConsumePrefix(&name, "clip.");
    if (!is_clip && !absl::ConsumePrefix(&name, "precision.")) continue;
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
    QuantizeSetting& setting = settings.settings_[weight];
    if (is_clip) {
      const auto* clip = std::get_if<double>(&attr);
      if (clip == nullptr || !(*clip > 0)) return expected("a float above 0");
      setting.clip = *clip;
      continue;
    }
    const auto* precision = std::get_if<std::string>(&attr);
    if (precision == nullptr || (*precision != "float" && *precision != "int8")) {
      return expected("\"float\" or \"int8\"");
    }
    using enum QuantizeSetting::Precision;
    setting.precision = *precision == "float" ? kFloat : kInt8;
  }
  return settings;
}

QuantizeSetting QuantizeSettings::operator[](const Value* weight) const {
  const auto it = settings_.find(weight);
  return it == settings_.end() ? QuantizeSetting{} : it->second;
}

std::string_view WhyFusedLayerStays(const LinearForm& layer) {
  if (layer.norm != "none") return "the norm before it is fused into it already";
  return layer.has_epilogue() ? "what comes after it is fused into it already" : "";
}

bool IsLookupOfFloats(const ir::Node& node) {
  return IsTokenLookup(node) && node.operand(0)->kind() == ir::ValueKind::kWeight &&
         IsFloat(node.operand(0)->tensor().dtype);
}

}  // namespace flashflow::passes
