// fuse-qkv-norm: a layer norm or RMS norm becomes the prologue of the linear layers that read it: of queries, keys and
// values, of an MLP, of the head. Its result is then never written to memory.
//
//   %1 = rms_norm(%x, %n) {eps = 1e-05} : f32[T, 8]      %2 = fused_linear(%x, %w, _, _, %n)
//   %2 = linear(%1, %w) : f32[T, 24]                 =>       {norm = "rms_norm", eps = 1e-05} : f32[T, 24]
//
// Refuses a norm that anything but linear layers reads.
#ifndef COMPILER_PASSES_FUSE_QKV_NORM_PASS_H_
#define COMPILER_PASSES_FUSE_QKV_NORM_PASS_H_

#include "compiler/passes/pass.h"

namespace flashflow::passes {

class FuseQkvNormPass : public Pass {
 public:
  std::string_view name() const override { return "fuse-qkv-norm"; }
  Relation relation() const override { return Relation::kReassociated; }  // the norm is not rounded before the product
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const override;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_FUSE_QKV_NORM_PASS_H_
