// canonicalize: removes operations that do nothing and joins those that undo or repeat each other, so that later passes
// meet one form of each thing. Leaves what falls out of use to dce.
//
//   reshape to x's own shape, transpose by the identity, cast to x's dtype, slice of everything, expand to x's shape,
//   concat of one, x * 1, x / 1, x + 0, x - 0, pow(x, 1)                                   =>  x
//   neg(neg(x)), logical_not(logical_not(x)), cast back from a dtype that holds x exactly  =>  x
//   reshape(reshape(x))                           =>  reshape(x)
//   transpose(transpose(x))                       =>  transpose(x)
//   transpose that moves axes of size 1 only      =>  reshape(x)
//   linear(x, w, constant 0)                      =>  linear(x, w)
//   matmul(x, transpose(weight) {perm = [1, 0]})  =>  linear(x, weight)
//   matmul(x, weight)  =>  linear(x, transpose(weight) {perm = [1, 0]}), whose weight is loaded transposed
#ifndef COMPILER_PASSES_CANONICALIZE_PASS_H_
#define COMPILER_PASSES_CANONICALIZE_PASS_H_

#include "compiler/passes/pass.h"

namespace flashflow::passes {

class CanonicalizePass : public Pass {
 public:
  std::string_view name() const override { return "canonicalize"; }
  Relation relation() const override { return Relation::kIdentical; }
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const override;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_CANONICALIZE_PASS_H_
