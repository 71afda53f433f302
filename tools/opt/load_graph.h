// The graph that a tool is given.
#ifndef TOOLS_OPT_LOAD_GRAPH_H_
#define TOOLS_OPT_LOAD_GRAPH_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compiler/ir/graph.h"

namespace flashflow::tools {

// The program that exports models, among the files that Bazel laid beside this program; empty if it is not there.
// To be asked before the process changes its folder.
std::string FindExporter(const std::string& program);

// `what` is a file that ends in .ffir or .json (a graph as the exporter writes it), or a model as --model of `flashflow
// generate` takes it: a name, a folder, a .gguf. A model is exported first, by the program at `exporter`. Errors name
// the file, and in a text the line and column.
absl::StatusOr<std::unique_ptr<ir::Graph>> LoadGraph(const std::string& what, const std::string& exporter);

absl::StatusOr<std::string> ReadFile(const std::string& path);
// "-" is the standard output.
absl::Status WriteFile(const std::string& path, const std::string& text);

}  // namespace flashflow::tools

#endif  // TOOLS_OPT_LOAD_GRAPH_H_
