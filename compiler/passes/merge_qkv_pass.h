// merge-qkv: linear layers of one input become one layer whose weights are joined, and slices of its result: queries,
// keys and values, or gate and up of an MLP. The input is read once, and one product is wider than three.
//
//   %q = linear(%x, %wq) : f32[T, 8]          %w = concat(%wq, %wk, %wv) {axis = 0} : f32[16, 8]
//   %k = linear(%x, %wk) : f32[T, 4]   =>     %y = linear(%x, %w) : f32[T, 16]
//   %v = linear(%x, %wv) : f32[T, 4]          %q = slice(%y) {axis = 1, start = dim(0), stop = dim(8)} : f32[T, 8], ...
//
// Refuses layers of which only some have a bias, or whose weights differ in dtype or are stored transposed.
#ifndef COMPILER_PASSES_MERGE_QKV_PASS_H_
#define COMPILER_PASSES_MERGE_QKV_PASS_H_

#include "compiler/passes/pass.h"

namespace flashflow::passes {

class MergeQkvPass : public Pass {
 public:
  std::string_view name() const override { return "merge-qkv"; }
  Relation relation() const override { return Relation::kIdentical; }
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const override;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_MERGE_QKV_PASS_H_
