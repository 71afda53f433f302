// linear and fused_linear in one form, for the passes that fuse into them.
#ifndef COMPILER_PASSES_LINEAR_FORM_H_
#define COMPILER_PASSES_LINEAR_FORM_H_

#include <limits>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "compiler/ir/graph.h"

namespace flashflow::passes {

// The operands and attributes of a fused_linear; absent operands are nullptr.
struct LinearForm {
  ir::Value* x = nullptr;
  ir::Value* weight = nullptr;
  ir::Value* bias = nullptr;
  ir::Value* residual = nullptr;
  ir::Value* norm_weight = nullptr;
  ir::Value* norm_bias = nullptr;
  ir::Value* weight_scale = nullptr;  // of a weight of codes
  std::string norm = "none";
  double eps = 0;
  std::string activation = "none";
  bool gated = false;
  double clip = std::numeric_limits<double>::infinity();
  DType dtype = DType::kF32;
  std::string loc = {};

  // Of the node that defines the value; nullopt if it is neither linear nor fused_linear, or has a weight that is
  // computed: fused_linear's kernels want theirs in layouts that are made at load.
  static std::optional<LinearForm> Of(const ir::Value* value);
  static std::optional<LinearForm> Of(const ir::Node& node);

  // What the linear layer's products go through comes to nothing so far: an epilogue may be added.
  bool has_epilogue() const { return activation != "none" || gated || residual != nullptr; }

  // A fused_linear before `before`.
  absl::StatusOr<ir::Value*> Build(ir::Graph* graph, ir::Node* before) const;
};

// Whether one operand of one node is all that uses the value.
bool HasOneUse(const ir::Value* value);

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_LINEAR_FORM_H_
