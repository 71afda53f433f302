// The textual form of a graph, .ffir:
//
//   ffir 1
//   graph @tiny {
//     symbol B [1, 64]
//     metadata context_length = 1024
//     input %0 "ids" : i64[B, 8]
//     weight %1 "wte.weight" : f32[256, 32]
//     %2 = embedding(%1, %0) {dtype = f32} : f32[B, 8, 32] loc "wte (tiny.py:4)"
//     output "hidden" %2
//   }
//
// Values are numbered as NumberValues says; attributes equal to their default are omitted; an absent optional operand
// before a given one is `_`. Parse reads it back to a structurally equal graph.
#ifndef COMPILER_IR_PRINTER_H_
#define COMPILER_IR_PRINTER_H_

#include <string>

#include "compiler/ir/graph.h"

namespace flashflow::ir {

std::string Print(const Graph& graph);

// One node for messages: `%2 = embedding at "wte (tiny.py:4)"`. Numbers the whole graph: for errors, not for loops.
std::string Describe(const Graph& graph, const Node& node);

}  // namespace flashflow::ir

#endif  // COMPILER_IR_PRINTER_H_
