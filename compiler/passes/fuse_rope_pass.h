// fuse-rope: rotary position embedding in the half-split form, as models write it, becomes one op.
//
//   %1 = mul(%x, %cos)                                              %7 = rope(%x, %cos, %sin) : f32[T, 9, 64]
//   %2 = slice(%x) {axis = 2, start = dim(32), stop = dim(64)}
//   %3 = neg(%2)                                             =>
//   %4 = slice(%x) {axis = 2, start = dim(0), stop = dim(32)}
//   %5 = concat(%3, %4) {axis = 2}
//   %6 = mul(%5, %sin)
//   %7 = add(%1, %6) : f32[T, 9, 64]
//
// Operands of sums and products in either order. Refuses halves that are not those of x's last axis.
#ifndef COMPILER_PASSES_FUSE_ROPE_PASS_H_
#define COMPILER_PASSES_FUSE_ROPE_PASS_H_

#include "compiler/passes/pass.h"

namespace flashflow::passes {

class FuseRopePass : public Pass {
 public:
  std::string_view name() const override { return "fuse-rope"; }
  Relation relation() const override { return Relation::kReassociated; }  // it rounds once, not three times
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const override;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_FUSE_ROPE_PASS_H_
