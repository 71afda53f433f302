// dce: removes nodes and weights that nothing uses. Inputs stay: they are the graph's signature. A kv_append always has
// a use, as the verifier demands of a cache.
//
//   weight %1 "unused" : f32[4]
//   %2 = neg(%0) : f32[4]
//   %3 = exp(%0) : f32[4]               %1 = exp(%0) : f32[4]
//   output "y" %3                 =>    output "y" %1
#ifndef COMPILER_PASSES_DCE_PASS_H_
#define COMPILER_PASSES_DCE_PASS_H_

#include "compiler/passes/pass.h"

namespace flashflow::passes {

class DcePass : public Pass {
 public:
  std::string_view name() const override { return "dce"; }
  Relation relation() const override { return Relation::kIdentical; }
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const override;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_DCE_PASS_H_
