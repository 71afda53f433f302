#include <cstddef>
#include <iterator>

#include "absl/log/check.h"
#include "compiler/interpreter/eval.h"

namespace flashflow::interpreter {
namespace {

constexpr bool InOrder() {
  for (size_t i = 0; i < std::size(kEvalTable); ++i) {
    if (static_cast<size_t>(kEvalTable[i].op) != i) return false;
  }
  return true;
}
static_assert(InOrder());

}  // namespace

EvalFn GetEval(ir::Op op) {
  CHECK_LT(static_cast<size_t>(op), std::size(kEvalTable)) << "an op has no evaluation";
  return kEvalTable[static_cast<size_t>(op)].eval;
}

}  // namespace flashflow::interpreter
