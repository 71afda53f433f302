// What the tools' command lines have in common.
#ifndef TOOLS_OPT_COMMAND_LINE_H_
#define TOOLS_OPT_COMMAND_LINE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compiler/passes/options.h"

namespace flashflow::tools {

// Goes to the folder where the user stands (`bazel run` starts elsewhere), reads the flags, spelled --max-tokens or
// --max_tokens, and returns the arguments that are none. `usage` is what --help says first. Ends the process where
// absl's flags do: for --help and for a flag that is not one.
std::vector<std::string> ParseCommandLine(int argc, char** argv, const std::string& usage);

// "dtype=bf16,page_size=4", as a flag gives it.
absl::StatusOr<passes::CompileOptions> ParseOptions(const std::vector<std::string>& assignments);

}  // namespace flashflow::tools

#endif  // TOOLS_OPT_COMMAND_LINE_H_
