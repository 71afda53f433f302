// assign-types: gives what layers hand to each other the dtype that the option `activation_dtype` names; empty or f32
// leaves them as they are. Sums of products stay f32 or wider inside an operation, which rounds its result once. Graph
// outputs (logits) keep their types, and so do the angles of rotary embeddings: they are made from positions, and would
// lose bits that they need. An operation without a narrow form is refused, and reads casts back to f32. Runs before
// norms are fused: a norm reads what is rounded.
//
//   %3 = embedding(%1, %0) {dtype = f32} : f32[T, 32]       %3 = embedding(%1, %0) {dtype = bf16} : bf16[T, 32]
//   %4 = fused_linear(%3, %2, _, %3) : f32[T, 32]       =>  %4 = fused_linear(%3, %2, _, %3) {dtype = bf16} : bf16[T,
//   32] %5 = linear(%4, %1) : f32[T, 256]                       %5 = fused_linear(%4, %1) : f32[T, 256] output "logits"
//   %5                                      output "logits" %5
#ifndef COMPILER_PASSES_ASSIGN_TYPES_PASS_H_
#define COMPILER_PASSES_ASSIGN_TYPES_PASS_H_

#include "compiler/passes/pass.h"

namespace flashflow::passes {

class AssignTypesPass : public Pass {
 public:
  std::string_view name() const override { return "assign-types"; }
  Relation relation() const override { return Relation::kNarrowed; }
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const override;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_ASSIGN_TYPES_PASS_H_
