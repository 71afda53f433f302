// The verifier: what every graph holds to, whatever made it. It runs after the parser and between passes.
#ifndef COMPILER_IR_VERIFIER_H_
#define COMPILER_IR_VERIFIER_H_

#include "absl/status/status.h"
#include "compiler/ir/graph.h"

namespace flashflow::ir {

// OK if
// - inputs, weights and outputs have names, each unique among its kind, and every symbol in a type is declared;
// - every operand is defined before its use, and use lists say exactly what operands say;
// - every result has the type that inference gives, and attributes are complete;
// - a cache value is consumed exactly once, by a node or as an output, and is not read after that.
// Otherwise InvalidArgument names the first node or value that breaks a rule, with its location.
absl::Status Verify(const Graph& graph);

// What of the graph an error is about: an input, a weight or a node's first result, or else an output.
struct Culprit {
  const Value* value = nullptr;
  int output = -1;  // the index, if it is an output
};
absl::Status Verify(const Graph& graph, Culprit* culprit);

}  // namespace flashflow::ir

#endif  // COMPILER_IR_VERIFIER_H_
