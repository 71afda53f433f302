// Lookups of tokens, whose tables are large, among those of positions, whose tables are small and wanted exactly.
#ifndef COMPILER_PASSES_TOKEN_LOOKUP_H_
#define COMPILER_PASSES_TOKEN_LOOKUP_H_

#include "compiler/ir/graph.h"

namespace flashflow::passes {

// Whether the node is an embedding by ids that are made from the graph's token ids.
bool IsTokenLookup(const ir::Node& node);

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_TOKEN_LOOKUP_H_
