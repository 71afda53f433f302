// quantize-int4: weights of layers as 4-bit codes in groups of 32 with a scale and a least value, where the option
// `quantize` is int4. Products are of these and of 8-bit codes of groups of x: docs/ir.md, quantize and fused_linear.
// Layers whose result leaves the graph (logits), whose weight is a table of tokens too, or whose metadata
// "precision.<weight>" is "int8" are left to quantize-int8; those of "float" stay floats, with those that a layer joins
// to them.
//
// Runs before anything is fused into the layers, as quantize-int8 does.
//
//   %3 = linear(%0, %1, %2) : f32[T, 64]  =>  %3, %4 = quantize(%1) {group = 32} : i8[64, 16], f16[64, 1, 2]
//                                             %5 = fused_linear(%0, %3, %2, _, _, _, %4) : f32[T, 64]
#ifndef COMPILER_PASSES_QUANTIZE_INT4_PASS_H_
#define COMPILER_PASSES_QUANTIZE_INT4_PASS_H_

#include "compiler/passes/pass.h"

namespace flashflow::passes {

class QuantizeInt4Pass : public Pass {
 public:
  std::string_view name() const override { return "quantize-int4"; }
  Relation relation() const override { return Relation::kNarrowed; }
  // InvalidArgument as quantize-int8.
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const override;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_QUANTIZE_INT4_PASS_H_
