// recognize-norms: brings LayerNorm and RMSNorm that are written out to the one op of each, the casts around them
// included (as Llama models write them: to f32 and back).
//
//   %2 = mul(%x, %x) : f32[B, S, 64]                       (or pow(%x, 2))
//   %3 = reduce_mean(%2) {axes = [2], keepdims = true}
//   %4 = rsqrt(add(%3, eps)) : f32[B, S, 1]                (or 1 / sqrt)
//   %5 = mul(%x, %4) : f32[B, S, 64]                       %5 = rms_norm(%x, %w) {eps = 1e-06}
//   %6 = mul(%w, %5) : f32[B, S, 64]                 =>
//
//   d = sub(%x, reduce_mean(%x)); mul(d, rsqrt(add(reduce_mean(mul(d, d)), eps)))  =>  layer_norm(%x) {eps = ...}
//   mul(norm(%x), weight), add(layer_norm(%x), weight)                             =>  norm with weight, with bias
//   cast(norm(cast(%x) to f32)) back                                              =>  norm(%x)
//
// Refuses a norm over other axes than the last one, and an eps that is no constant.
#ifndef COMPILER_PASSES_RECOGNIZE_NORMS_PASS_H_
#define COMPILER_PASSES_RECOGNIZE_NORMS_PASS_H_

#include "compiler/passes/pass.h"

namespace flashflow::passes {

class RecognizeNormsPass : public Pass {
 public:
  std::string_view name() const override { return "recognize-norms"; }
  Relation relation() const override { return Relation::kReassociated; }
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const override;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_RECOGNIZE_NORMS_PASS_H_
