// narrow-weights: stores what a step streams in the chosen dtype. Option `dtype`, else the graph's metadata `dtype`,
// else f32. With bf16, weights of products and token embedding tables become bf16, and so does the KV cache;
// activations, norms and biases stay f32. Position tables stay f32 too: a step reads one row of them a token, and the
// angles of rotary embeddings would lose bits that they need. With the option `quantize`, weights stay as codes are to
// be made of them, but for those of metadata `precision.<weight>` = "float". Notes the choice in the metadata. With the
// option `kv_dtype` = int8 the KV cache is of codes, whatever the weights are.
//
//   weight %1 "wte" : f32[256, 32]                           weight %1 "wte" : bf16[256, 32]
//   %2 = embedding(%1, %0) {dtype = f32} : f32[T, 32]   =>   %2 = embedding(%1, %0) {dtype = f32} : f32[T, 32]
//   %3 = linear(%2, %1) : f32[T, 256]                        %3 = linear(%2, %1) : f32[T, 256]
#ifndef COMPILER_PASSES_NARROW_WEIGHTS_PASS_H_
#define COMPILER_PASSES_NARROW_WEIGHTS_PASS_H_

#include "compiler/passes/pass.h"

namespace flashflow::passes {

class NarrowWeightsPass : public Pass {
 public:
  std::string_view name() const override { return "narrow-weights"; }
  Relation relation() const override { return Relation::kNarrowed; }
  // InvalidArgument if the graph is narrowed already and the options ask for f32, or for codes of what is rounded.
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const override;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_NARROW_WEIGHTS_PASS_H_
