// cse: common subexpression elimination. Of pure nodes with the same operation, operands and attributes the first
// stays and stands for the others, which dce then removes. Operations on the cache are left alone, and two outputs
// keep a value each.
//
//   %2 = exp(%0) : f32[4]
//   %3 = exp(%0) : f32[4]               %2 = exp(%0) : f32[4]
//   %4 = add(%2, %3) : f32[4]     =>    %4 = add(%2, %2) : f32[4]
#ifndef COMPILER_PASSES_CSE_PASS_H_
#define COMPILER_PASSES_CSE_PASS_H_

#include "compiler/passes/pass.h"

namespace flashflow::passes {

class CsePass : public Pass {
 public:
  std::string_view name() const override { return "cse"; }
  Relation relation() const override { return Relation::kIdentical; }
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const override;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_CSE_PASS_H_
