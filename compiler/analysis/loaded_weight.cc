#include "compiler/analysis/loaded_weight.h"

#include <algorithm>
#include <cstdint>

namespace flashflow::analysis {
namespace {

using ir::Op;

bool OnlyLinearLayersReadIt(const ir::Value& value) {
  return std::ranges::all_of(value.uses(), [](const ir::Use& use) {
    const bool linear = use.node->op() == Op::kLinear || use.node->op() == Op::kFusedLinear;
    return (linear && use.operand_index == 1) || use.node->op() == Op::kQuantize;
  });
}

}  // namespace

std::optional<LoadedWeight> AsLoadedWeight(const ir::Value& value) {
  if (value.kind() == ir::ValueKind::kWeight) return LoadedWeight{{&value}};
  if (value.kind() != ir::ValueKind::kResult || value.IsOutput()) return std::nullopt;
  const ir::Node& node = *value.def();
  LoadedWeight loaded;
  if (node.op() == Op::kTranspose) {
    if (node.attr<std::vector<int64_t>>("perm") != std::vector<int64_t>{1, 0} || !OnlyLinearLayersReadIt(value)) {
      return std::nullopt;
    }
    loaded.transposed = true;
  } else if (node.op() != Op::kConcat || node.attr<int64_t>("axis") != 0) {
    return std::nullopt;
  }
  for (const ir::Value* operand : node.operands()) {
    if (operand->kind() != ir::ValueKind::kWeight) return std::nullopt;
    loaded.sources.push_back(operand);
  }
  return loaded;
}

bool IsMadeAtLoad(const ir::Value& value) {
  if (value.kind() == ir::ValueKind::kResult && value.def()->op() == Op::kQuantize) {
    return AsLoadedWeight(*value.def()->operand(0)).has_value();
  }
  return AsLoadedWeight(value).has_value();
}

}  // namespace flashflow::analysis
