// fuse-out-residual: the sum that takes a layer's result back into the residual stream becomes the layer's epilogue.
//
//   %1 = linear(%x, %w) : f32[T, 8]     =>     %2 = fused_linear(%x, %w, _, %r) : f32[T, 8]
//   %2 = add(%r, %1) : f32[T, 8]
//
// Refuses a layer whose result is wanted without the sum too.
#ifndef COMPILER_PASSES_FUSE_OUT_RESIDUAL_PASS_H_
#define COMPILER_PASSES_FUSE_OUT_RESIDUAL_PASS_H_

#include "compiler/passes/pass.h"

namespace flashflow::passes {

class FuseOutResidualPass : public Pass {
 public:
  std::string_view name() const override { return "fuse-out-residual"; }
  Relation relation() const override { return Relation::kReassociated; }  // the product is not rounded before the sum
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const override;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_FUSE_OUT_RESIDUAL_PASS_H_
