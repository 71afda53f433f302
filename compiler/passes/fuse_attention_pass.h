// fuse-attention: brings attention that is written out, and attention with a mask, to the attention op without one.
//
//   %4 = transpose(%k) {perm = [0, 1, 3, 2]} : f32[B, H, 8, S]
//   %5 = matmul(%q, %4) : f32[B, H, S, S]
//   %6 = mul(%5, 0.35) : f32[B, H, S, S]
//   %7 = add(%6, %mask) : f32[B, H, S, S]
//   %8 = softmax(%7) {axis = 3} : f32[B, H, S, S]
//   %9 = matmul(%8, %v) : f32[B, H, S, 8]           =>    %9 = attention(%q, %k, %v) {causal = true, scale = 0.35}
//
// Scales may stand at the product, the queries or the keys; casts of the scores to f32 and of the weights back are
// dropped. Masks, added or chosen by where, are read through their index arithmetic (index_form.h): they become causal,
// causal with a window, or nothing; one that says something else stays as the op's mask, and a remark says why. Batch
// and heads may be one axis, as for bmm. Keys and values whose heads are repeated (reshape, expand, reshape) lose that,
// as the op shares heads. A query to which its mask leaves no key gives zeros, where softmax over -infinity gave NaN.
//
// Rests on two things: with the option consecutive_positions, the input "position_ids" rises by one along each
// sequence; and scores are far from the least f32, so that adding that to one has the effect of -infinity.
//
// Refuses unknown masks that are scaled, weights that something else reads, and softmax over another axis than the
// keys'.
#ifndef COMPILER_PASSES_FUSE_ATTENTION_PASS_H_
#define COMPILER_PASSES_FUSE_ATTENTION_PASS_H_

#include "compiler/passes/pass.h"

namespace flashflow::passes {

class FuseAttentionPass : public Pass {
 public:
  std::string_view name() const override { return "fuse-attention"; }
  Relation relation() const override { return Relation::kReassociated; }
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const override;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_FUSE_ATTENTION_PASS_H_
