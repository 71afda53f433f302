// constant-fold: computes what needs no input. Arithmetic on constants becomes a constant, as do shape changes of one;
// integer and bool arithmetic on iotas becomes a constant or an iota where its closed form (index_form.h) says so for
// every size that the symbols may take.
//
//   %1 = iota() {axis = 0, dtype = i64, shape = dims(S)} : i64[S]
//   %2 = constant() {dtype = i64, value = 0.0} : i64[]
//   %3 = add(%1, %2) : i64[S]
//   %4 = reshape(%3) {shape = dims(1, S)} : i64[1, S]         %4 = iota() {axis = 1, ...} : i64[1, S]
//   %5 = ge(%4, %2) : bool[1, S]                        =>    %5 = constant() {value = 1.0, ...} : bool[1, S]
//
// Refuses floats whose operands are not values of their dtype: the interpreter's two modes would round them apart.
#ifndef COMPILER_PASSES_CONSTANT_FOLD_PASS_H_
#define COMPILER_PASSES_CONSTANT_FOLD_PASS_H_

#include "compiler/passes/pass.h"

namespace flashflow::passes {

class ConstantFoldPass : public Pass {
 public:
  std::string_view name() const override { return "constant-fold"; }
  Relation relation() const override { return Relation::kIdentical; }
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const override;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_CONSTANT_FOLD_PASS_H_
