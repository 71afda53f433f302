// simplify: algebraic identities that hold bit for bit. What dce then removes is left in place.
//
//   div(x, 2^k)  =>  mul(x, 2^-k)                      mul(x, -1)  =>  neg(x)
//   add(x, neg(y))  =>  sub(x, y)                      sub(x, neg(y))  =>  add(x, y)
//   where(true, a, b), where(c, a, a)  =>  a           maximum(x, x), minimum(x, x)  =>  x
//   logical_and(x, true), logical_or(x, false)  =>  x  logical_and(x, false)  =>  false  (or alike)
//   integers: sub(x, x), mul(x, 0)  =>  0              eq(x, x), le(x, x), ge(x, x)  =>  true
//   slice(slice(x))  =>  slice(x)                      slice(concat(x, y)) inside y  =>  slice(y)
//   concat(x[a:b], x[b:c])  =>  x[a:c]                 expand(expand(x))  =>  expand(x)
//   op(expand(x), y)  =>  op(x, y) where broadcasting does the same
//   cast(cast(x, wider), dtype)  =>  cast(x, dtype)
//   tokens flattened for a layer (the last axis as before, of rank r, R or any; r < R):
//   linear(reshape(x : R) : r, w)  =>  reshape(linear(x, w))
//   reshape(linear(reshape(x) : r, w)) : R  =>  linear(reshape(x) : R, w)
//
// Refuses x - x, x * 0 and x == x of floats: NaN and infinity give NaN, and NaN equals nothing.
#ifndef COMPILER_PASSES_SIMPLIFY_PASS_H_
#define COMPILER_PASSES_SIMPLIFY_PASS_H_

#include "compiler/passes/pass.h"

namespace flashflow::passes {

class SimplifyPass : public Pass {
 public:
  std::string_view name() const override { return "simplify"; }
  Relation relation() const override { return Relation::kIdentical; }
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const override;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_SIMPLIFY_PASS_H_
