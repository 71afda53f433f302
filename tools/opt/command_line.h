// What the tools' command lines have in common.
#ifndef TOOLS_OPT_COMMAND_LINE_H_
#define TOOLS_OPT_COMMAND_LINE_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compiler/passes/options.h"

namespace flashflow::tools {

// The body of a tool's main(). Goes to the folder where the user stands (`bazel run` starts elsewhere), reads the
// flags, spelled --max-tokens or --max_tokens, and calls `run` with the arguments that are none and the program that
// exports models (FindExporter). `usage` is what --help says first, with what the graph argument may be added to it. An
// error goes to the standard error behind the tool's name. Returns the exit code; ends the process where absl's flags
// do: for
// --help and for a flag that is not one.
int RunGraphTool(
    std::string_view name, const std::string& usage, int argc, char** argv,
    absl::FunctionRef<absl::Status(const std::vector<std::string>& arguments, const std::string& exporter)> run);

// "dtype=bf16,page_size=4", as a flag gives it.
absl::StatusOr<passes::CompileOptions> ParseOptions(const std::vector<std::string>& assignments);

}  // namespace flashflow::tools

#endif  // TOOLS_OPT_COMMAND_LINE_H_
