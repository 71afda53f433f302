// recognize-activations: brings SiLU and GELU that are written out to the one op of each.
//
//   mul(x, sigmoid(x)), div(x, add(exp(neg(x)), 1))              =>  silu(x)
//   0.5 * x * (1 + erf(x / sqrt(2)))                             =>  gelu(x)
//   0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))    =>  gelu(x) {approximate = "tanh"}
//
// Factors may come in any order and grouping, quotients by constants count as products, x^3 may be a pow or products.
// Constants may differ from the above by what rounding them to f32 may do.
//
// Refuses what has the form of a GELU but other constants.
#ifndef COMPILER_PASSES_RECOGNIZE_ACTIVATIONS_PASS_H_
#define COMPILER_PASSES_RECOGNIZE_ACTIVATIONS_PASS_H_

#include "compiler/passes/pass.h"

namespace flashflow::passes {

class RecognizeActivationsPass : public Pass {
 public:
  std::string_view name() const override { return "recognize-activations"; }
  Relation relation() const override { return Relation::kReassociated; }
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const override;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_RECOGNIZE_ACTIVATIONS_PASS_H_
