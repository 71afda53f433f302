// Random well-typed graphs, for properties that every graph has.
#ifndef COMPILER_PROOF_RANDOM_GRAPH_H_
#define COMPILER_PROOF_RANDOM_GRAPH_H_

#include <cstdint>
#include <memory>

#include "compiler/ir/graph.h"

namespace flashflow::proof {

// A graph of about `nodes` nodes over the symbols B and S, with inputs and weights of several types and one to three
// outputs, that the verifier passes and the interpreter evaluates. The same seed gives the same graph.
//
// Nodes are guessed from the op table: any op without a cache, operands among the values so far or fresh weights,
// attributes by their kind; what type inference or the interpreter refuses is dropped. So it follows the op table
// without knowing the ops. Now and then it adds something that changes nothing, as passes look for.
std::unique_ptr<ir::Graph> RandomGraph(uint64_t seed, int nodes = 24);

}  // namespace flashflow::proof

#endif  // COMPILER_PROOF_RANDOM_GRAPH_H_
