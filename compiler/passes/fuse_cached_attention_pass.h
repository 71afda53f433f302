// fuse-cached-attention: rope of queries and keys, the append to the KV cache and attention over it become one op on
// the merged product of queries, keys and values.
//
//   %q = rope(reshape(slice(%qkv, 0 .. 512)), %cos, %sin)       %c1, %y = cached_attention(%c0, %qkv, %2, %3, %4, %cos,
//   %k = rope(reshape(slice(%qkv, 512 .. 640)), %cos, %sin)         %sin) {layer = 0, heads = 8, scale = 0.125}
//   %v = reshape(slice(%qkv, 640 .. 768))                    =>     : cache[1, 2, 64, f32], f32[T, 512]
//   %c1 = kv_append(%c0, %k, %v, %2, %3, %4) {layer = 0}
//   %y = paged_attention(%c1, %q, %2, %3, %4) {layer = 0, scale = 0.125} : f32[T, 8, 64]
//
// (%y is then a reshape of the op's result.) Refuses queries, keys and values that do not lie side by side, or turn by
// different angles.
#ifndef COMPILER_PASSES_FUSE_CACHED_ATTENTION_PASS_H_
#define COMPILER_PASSES_FUSE_CACHED_ATTENTION_PASS_H_

#include "compiler/passes/pass.h"

namespace flashflow::passes {

class FuseCachedAttentionPass : public Pass {
 public:
  std::string_view name() const override { return "fuse-cached-attention"; }
  Relation relation() const override { return Relation::kIdentical; }
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const override;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_FUSE_CACHED_ATTENTION_PASS_H_
