// quantize-int8: products of layers by int8 codes, where the option `quantize` is int8, or int4 and quantize-int4 has
// left them. The weight of each linear or
// fused_linear layer becomes symmetric codes with a scale a row, and the layer codes each row of x as it runs, clipped
// at the constant that calibration or training found: the graph's metadata "clip.<weight>", a float above 0; none if
// there is none. Tables of tokens become codes too: with a tied head they are those of its layer. A weight whose
// metadata "precision.<weight>" is "float" stays one, with those that a layer joins to it; "int8" is what holds
// without. docs/ir.md has the arithmetic: quantize, fused_linear and embedding.
//
// Runs before anything is fused into the layers: x, the row that is coded, and the sum in f32 are values of the graph
// then, as the arithmetic has them.
//
//   metadata "clip.w" = 4.5                       metadata "clip.w" = 4.5
//   %3 = linear(%0, %1, %2) : f32[T, 64]      =>  %3, %4 = quantize(%1) : i8[64, 32], f32[64]
//                                                 %5 = fused_linear(%0, %3, %2, _, _, _, %4) {clip = 4.5} : f32[T, 64]
#ifndef COMPILER_PASSES_QUANTIZE_INT8_PASS_H_
#define COMPILER_PASSES_QUANTIZE_INT8_PASS_H_

#include "compiler/passes/pass.h"

namespace flashflow::passes {

class QuantizeInt8Pass : public Pass {
 public:
  std::string_view name() const override { return "quantize-int8"; }
  Relation relation() const override { return Relation::kNarrowed; }
  // InvalidArgument for a clip in the metadata that is no float above 0, a precision that is neither of the two, and
  // for those of no weight.
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const override;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_QUANTIZE_INT8_PASS_H_
