// fuse-mlp: the activation of an MLP becomes part of the layer before it, alone or as the gate of a gated MLP (SwiGLU,
// GEGLU), of which merge-qkv has made one layer.
//
//   %1 = linear(%x, %w, %b) : f32[T, 64]            %2 = fused_linear(%x, %w, %b) {activation = "gelu_tanh"}
//   %2 = gelu(%1) {approximate = "tanh"}        =>
//
//   %1 = linear(%x, %w) : f32[T, 64]                %5 = fused_linear(%x, %w) {activation = "silu", gated = true}
//   %2 = slice(%1) {axis = 1, start = dim(0), stop = dim(32)}                                        : f32[T, 32]
//   %3 = slice(%1) {axis = 1, start = dim(32), stop = dim(64)}
//   %4 = silu(%2)                               =>
//   %5 = mul(%4, %3)
//
// Of a layer whose second half is the gate, the halves of its weight are exchanged. Refuses layers whose products are
// wanted elsewhere too.
#ifndef COMPILER_PASSES_FUSE_MLP_PASS_H_
#define COMPILER_PASSES_FUSE_MLP_PASS_H_

#include "compiler/passes/pass.h"

namespace flashflow::passes {

class FuseMlpPass : public Pass {
 public:
  std::string_view name() const override { return "fuse-mlp"; }
  Relation relation() const override { return Relation::kReassociated; }  // products are not rounded before
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const override;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_FUSE_MLP_PASS_H_
