// kv-cache: turns a rectangular graph over (batch B, sequence S) into the step graph over packed tokens T, whose keys
// and values live in a paged cache. Every value with a batch and a sequence axis is repacked to [T, its other axes];
// transposes that move only those two vanish, and causal attention becomes kv_append + paged_attention.
//
//   input %0 "input_ids" : i64[B, S]               input %0 "token_ids" : i32[T]  (and "positions" : i32[T],
//   input %1 "position_ids" : i64[B, S]            "row_start" : i32[R+1], "kv_len" : i32[R], "block_table" : i32[R,
//   P],
//                                                  "logit_rows" : i32[L])
//   %5 = transpose(%2) {perm = [0, 2, 1, 3]}  =>   input %6 "cache" : cache[1, 2, 8, f32]
//          : f32[B, 2, S, 8]  (%6, %7 alike)       %9 = kv_append(%6, %k, %v, %3, %4, %5) {layer = 0}
//   %8 = attention(%5, %6, %7)                     %10 = paged_attention(%9, %q, %3, %4, %5) {layer = 0, ...}
//   output "logits" %9                             %11 = gather_rows(%x, %logit_rows) : f32[L, 256]
//                                                  output "logits" %11   output "cache" %9
//
// Positions that the model makes itself, as 0, 1, ... along the sequence (iota) or as the first S rows of a table,
// become the step's positions; "position_ids" may then be missing. Refuses, leaving the graph as it was, whatever mixes
// tokens otherwise (a remark names the node): attention that is not causal or is decomposed, slices or sums over a
// token axis, what else is made for all tokens at once, heads of several shapes.
#ifndef COMPILER_PASSES_KV_CACHE_PASS_H_
#define COMPILER_PASSES_KV_CACHE_PASS_H_

#include "compiler/passes/pass.h"

namespace flashflow::passes {

class KvCachePass : public Pass {
 public:
  std::string_view name() const override { return "kv-cache"; }
  Relation relation() const override { return Relation::kRestructured; }
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const override;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_KV_CACHE_PASS_H_
