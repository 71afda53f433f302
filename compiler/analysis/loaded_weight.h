// Values that are computed from weights alone, in a way that loading them does for nothing.
#ifndef COMPILER_ANALYSIS_LOADED_WEIGHT_H_
#define COMPILER_ANALYSIS_LOADED_WEIGHT_H_

#include <optional>
#include <vector>

#include "compiler/ir/graph.h"

namespace flashflow::analysis {

// What the loader makes of weights: one as it is, several joined along axis 0, or one matrix with its axes exchanged.
struct LoadedWeight {
  std::vector<const ir::Value*> sources;
  bool transposed = false;
};

// How the loader gives the value, which is a weight, a concat along axis 0 of weights (as merged layers have it), or
// the transpose of a weight that only linear layers read, as their weight: where each kernel's layout is made at load
// anyway. nullopt for what has to be computed.
std::optional<LoadedWeight> AsLoadedWeight(const ir::Value& value);

// Whether nothing runs for the value: a loaded weight, or the codes or scales of one (quantize).
bool IsMadeAtLoad(const ir::Value& value);

}  // namespace flashflow::analysis

#endif  // COMPILER_ANALYSIS_LOADED_WEIGHT_H_
