// Writes a small random model for tests in other languages: its graph.json and an engine file of it.
#include <cstdio>
#include <fstream>
#include <string>

#include "absl/base/log_severity.h"
#include "absl/log/globals.h"
#include "absl/status/status.h"
#include "compiler/frontend/import_graph.h"
#include "compiler/frontend/test_models.h"
#include "compiler/ir/status_macros.h"
#include "runtime/api/test_engine.h"

namespace flashflow::runtime {
namespace {

absl::Status Write(const std::string& graph_path, const std::string& engine_path) {
  frontend::TestModelShape shape;
  shape.kv_heads = 2;
  const std::string json = frontend::LlamaJson(shape);
  std::ofstream(graph_path) << json;
  FF_ASSIGN_OR_RETURN(const auto graph, frontend::ImportGraph(json));
  passes::CompileOptions options;
  options.max_tokens = 16;
  options.max_rows = options.max_logit_rows = 8;
  return BuildTestEngine(engine_path, *graph, RandomWeights(*graph, 1), options, /*eos=*/7);
}

}  // namespace
}  // namespace flashflow::runtime

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  absl::SetMinLogLevel(absl::LogSeverityAtLeast::kWarning);
  const absl::Status status = flashflow::runtime::Write(argv[1], argv[2]);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
