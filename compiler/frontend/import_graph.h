// From graph.json to the IR.
#ifndef COMPILER_FRONTEND_IMPORT_GRAPH_H_
#define COMPILER_FRONTEND_IMPORT_GRAPH_H_

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "compiler/ir/graph.h"

namespace flashflow::frontend {

// Imports a graph that the exporter wrote: rectangular, over the symbols that it declares (batch B, sequence S). The
// result is verified. The text is untrusted: every kind, reference and shape is checked, and each node's declared dtype
// and shape against what its lowering infers.
//
// InvalidArgument names the place in the text (line:column) and the node (id, target, module, source line), what was
// wrong and what to do.
absl::StatusOr<std::unique_ptr<ir::Graph>> ImportGraph(std::string_view graph_json);

}  // namespace flashflow::frontend

#endif  // COMPILER_FRONTEND_IMPORT_GRAPH_H_
