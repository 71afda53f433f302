// last-token-head: computes only the rows that the logits are wanted for. A gather_rows sinks towards the inputs
// through row-wise operations (linear, norms, elementwise, and the like) whose every use is gathered by the same rows,
// so that the head, and with it all that follows the last attention, runs on L rows instead of T.
//
//   %3 = layer_norm(%2, %1) : f32[T, 32]                %3 = gather_rows(%2, %rows) : f32[L, 32]
//   %4 = linear(%3, %0) : f32[T, 256]             =>    %4 = layer_norm(%3, %1) : f32[L, 32]
//   %5 = gather_rows(%4, %rows) : f32[L, 256]           %5 = linear(%4, %0) : f32[L, 256]
//   output "logits" %5                                  output "logits" %5
#ifndef COMPILER_PASSES_LAST_TOKEN_HEAD_PASS_H_
#define COMPILER_PASSES_LAST_TOKEN_HEAD_PASS_H_

#include "compiler/passes/pass.h"

namespace flashflow::passes {

class LastTokenHeadPass : public Pass {
 public:
  std::string_view name() const override { return "last-token-head"; }
  Relation relation() const override { return Relation::kIdentical; }
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const override;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_LAST_TOKEN_HEAD_PASS_H_
