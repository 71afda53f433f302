#include "tools/opt/command_line.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "absl/log/globals.h"
#include "absl/log/initialize.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "compiler/ir/status_macros.h"
#include "tools/opt/load_graph.h"

namespace flashflow::tools {
namespace {

std::vector<std::string> ParseCommandLine(int argc, char** argv, const std::string& usage) {
  if (const char* folder = std::getenv("BUILD_WORKING_DIRECTORY"); folder != nullptr && chdir(folder) != 0) {
    std::fprintf(stderr, "cannot go to the folder %s\n", folder);
    std::exit(1);
  }
  absl::SetProgramUsageMessage(usage);
  // --help shows the tools' own flags.
  absl::FlagsUsageConfig config;
  config.contains_help_flags = [](std::string_view file) { return absl::StrContains(file, "tools/"); };
  absl::SetFlagsUsageConfig(config);
  std::vector<std::string> spelled(argv, argv + argc);
  std::vector<char*> arguments;
  for (std::string& argument : spelled) {
    if (argument.starts_with("--")) {
      const size_t end = std::min(argument.find('='), argument.size());
      argument =
          absl::StrCat("--", absl::StrReplaceAll(argument.substr(2, end - 2), {{"-", "_"}}), argument.substr(end));
    }
    arguments.push_back(argument.data());
  }
  const std::vector<char*> rest = absl::ParseCommandLine(argc, arguments.data());
  absl::InitializeLog();
  absl::SetStderrThreshold(absl::LogSeverityAtLeast::kWarning);
  return {rest.begin() + 1, rest.end()};
}

}  // namespace

int RunGraphTool(
    std::string_view name, const std::string& usage, int argc, char** argv,
    absl::FunctionRef<absl::Status(const std::vector<std::string>& arguments, const std::string& exporter)> run) {
  const std::string exporter = FindExporter(argv[0]);  // before the folder changes
  const std::vector<std::string> arguments = ParseCommandLine(
      argc, argv,
      absl::StrCat(usage,
                   "\n\nGRAPH is a .ffir file, a graph.json as the exporter writes it, or a model: a name, a folder, a "
                   ".gguf."));
  const absl::Status status = run(arguments, exporter);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s: %s\n", std::string(name).c_str(), std::string(status.message()).c_str());
  return 1;
}

absl::StatusOr<passes::CompileOptions> ParseOptions(const std::vector<std::string>& assignments) {
  passes::CompileOptions options;
  for (const std::string& assignment : assignments) {
    const size_t equals = assignment.find('=');
    if (equals == std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat("--options: expected name=value, got \"", assignment, "\""));
    }
    FF_RETURN_IF_ERROR(
        passes::SetOptionFromText(assignment.substr(0, equals), assignment.substr(equals + 1), &options));
  }
  return options;
}

}  // namespace flashflow::tools
