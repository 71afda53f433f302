// widen-vectors: biases and the weights of norms in f32, as CUDA's kernels read them whatever the layer's dtype. Option
// `device` = cuda; nothing changes for others.
//
//   weight %2 "bias" : bf16[64]                          weight %2 "bias" : bf16[64]
//   %3 = linear(%0, %1, %2) : bf16[T, 64]           =>   %3 = cast(%2) {dtype = f32} : f32[64]
//                                                        %4 = linear(%0, %1, %3) : bf16[T, 64]
//
// Codegen leaves the cast of a weight to whoever loads it.
#ifndef COMPILER_PASSES_WIDEN_VECTORS_PASS_H_
#define COMPILER_PASSES_WIDEN_VECTORS_PASS_H_

#include "compiler/passes/pass.h"

namespace flashflow::passes {

class WidenVectorsPass : public Pass {
 public:
  std::string_view name() const override { return "widen-vectors"; }
  Relation relation() const override { return Relation::kIdentical; }
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const override;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_WIDEN_VECTORS_PASS_H_
