// What the metadata of a graph say of the codes of its weights.
#ifndef COMPILER_PASSES_QUANTIZE_SETTINGS_H_
#define COMPILER_PASSES_QUANTIZE_SETTINGS_H_

#include <cstdint>
#include <limits>
#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "compiler/analysis/loaded_weight.h"
#include "compiler/ir/graph.h"
#include "compiler/passes/linear_form.h"

namespace flashflow::passes {

inline constexpr double kNoClip = std::numeric_limits<double>::infinity();

// Of one weight: the metadata "clip.<weight>", a float above 0, and "precision.<weight>", "float" or "int8".
struct QuantizeSetting {
  enum class Precision : uint8_t { kUnsaid, kFloat, kInt8 };
  double clip = kNoClip;
  Precision precision = Precision::kUnsaid;
};

// Of the weights that the metadata name.
class QuantizeSettings {
 public:
  // InvalidArgument for a setting of no weight, and for a value that is none of those.
  static absl::StatusOr<QuantizeSettings> Of(const ir::Graph& graph);

  QuantizeSetting operator[](const ir::Value* weight) const;

 private:
  absl::flat_hash_map<const ir::Value*, QuantizeSetting> settings_;
};

// Reasons for which a layer is not coded, as refusals have them.
inline constexpr std::string_view kWeightIsComputed = "its weight is computed, not stored";
inline constexpr std::string_view kWeightStaysFloat = "the metadata keeps its weight in floats";
// For what is fused into the layer already; empty: for nothing.
std::string_view WhyFusedLayerStays(const LinearForm& layer);

// Whether the node looks tokens up in a stored table of floats.
bool IsLookupOfFloats(const ir::Node& node);

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_QUANTIZE_SETTINGS_H_
