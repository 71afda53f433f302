// fuse-norm-residual: a sum and the norm of it are computed in one go over the row, where the sum is not a layer's
// epilogue and the norm not a layer's prologue.
//
//   %1 = add(%x, %r) : f32[T, 8]                         %1, %2 = add_norm(%x, %r, %n) {norm = "rms_norm", eps = 1e-05}
//   %2 = rms_norm(%1, %n) {eps = 1e-05} : f32[T, 8]  =>       : f32[T, 8], f32[T, 8]
//
// Refuses sums that broadcast.
#ifndef COMPILER_PASSES_FUSE_NORM_RESIDUAL_PASS_H_
#define COMPILER_PASSES_FUSE_NORM_RESIDUAL_PASS_H_

#include "compiler/passes/pass.h"

namespace flashflow::passes {

class FuseNormResidualPass : public Pass {
 public:
  std::string_view name() const override { return "fuse-norm-residual"; }
  Relation relation() const override { return Relation::kIdentical; }
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const override;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_FUSE_NORM_RESIDUAL_PASS_H_
