// Minimizes a graph that fails.
#ifndef COMPILER_PROOF_SHRINK_H_
#define COMPILER_PROOF_SHRINK_H_

#include <functional>
#include <memory>

#include "compiler/ir/graph.h"

namespace flashflow::proof {

// Whether the graph still shows the failure. Called with graphs that the verifier passes only; it may change its own
// copy, not the graph.
using Fails = std::function<bool(const ir::Graph& graph)>;

struct ShrinkOptions {
  int max_attempts = 4000;  // calls of the predicate
};

// A graph that fails as `graph` does, and from which nothing more can be taken: outputs dropped or taken
// earlier, runs of nodes replaced by inputs (halves first, then ever fewer), single nodes replaced by an operand,
// optional operands left out, symbols and constant dims made 1 or 2, unused inputs, weights and symbols, metadata and
// locations removed, each as long as it fails. Precondition: fails(graph).
std::unique_ptr<ir::Graph> Shrink(const ir::Graph& graph, const Fails& fails, const ShrinkOptions& options = {});

}  // namespace flashflow::proof

#endif  // COMPILER_PROOF_SHRINK_H_
