// random_engine: an engine file of an exported graph with random weights, for timing models whose checkpoint is not
// at hand. What it generates makes no sense.
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/log/globals.h"
#include "absl/log/initialize.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "compiler/frontend/import_graph.h"
#include "compiler/ir/status_macros.h"
#include "compiler/passes/options.h"
#include "runtime/api/engine_builder.h"

ABSL_FLAG(std::string, kv_dtype, "", "int8: the KV cache is of codes; empty: of dtype");
ABSL_FLAG(std::string, dtype, "bf16", "of weights and KV cache: bf16, f32, or int8 codes in bf16");
ABSL_FLAG(uint32_t, seed, 1, "of the weights");

namespace flashflow {
namespace {

constexpr float kSpread = 0.02f;  // of weights, as models begin their training; norms scale by about 1

absl::Status Run(const std::string& graph_path, const std::string& engine_path) {
  std::ifstream file(graph_path);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", graph_path));
  FF_ASSIGN_OR_RETURN(const auto graph, frontend::ImportGraph(text.str()));
  passes::CompileOptions options;
  options.dtype = absl::GetFlag(FLAGS_dtype);
  options.kv_dtype = absl::GetFlag(FLAGS_kv_dtype);
  if (options.dtype == "int8") {
    options.dtype = "bf16";
    options.quantize = "int8";
  }
  FF_RETURN_IF_ERROR(passes::CheckOptions(options));

  std::vector<float> values;
  const auto source = [&](std::string_view name) -> absl::StatusOr<engine::SourceTensor> {
    const ir::Value* weight = graph->FindWeight(name);
    if (weight == nullptr) return absl::NotFoundError(absl::StrCat("the graph has no weight ", name));
    engine::SourceTensor tensor = {nullptr, DType::kF32, {}};
    size_t count = 1;
    for (const DimExpr& dim : weight->tensor().shape) {
      tensor.shape.push_back(dim.constant().value_or(0));
      count *= static_cast<size_t>(tensor.shape.back());
    }
    std::seed_seq seeds(name.begin(), name.end());
    std::minstd_rand random(seeds);
    random.discard(absl::GetFlag(FLAGS_seed));
    std::uniform_real_distribution<float> uniform(-kSpread, kSpread);
    const float center = tensor.shape.size() == 1 && absl::EndsWith(name, ".weight") ? 1 : 0;
    values.resize(count);
    for (float& value : values) value = center + uniform(random);
    tensor.data = values.data();
    return tensor;
  };
  runtime::ModelFiles files;
  files.config_json = R"({"name": "random", "architecture": "random", "eos_token_ids": []})";
  return runtime::BuildEngine(engine_path, *graph, files, options, source);
}

}  // namespace
}  // namespace flashflow

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "an engine file with random weights.\n\n  random_engine graph.json out.ff [--dtype=bf16]");
  const std::vector<char*> arguments = absl::ParseCommandLine(argc, argv);
  absl::InitializeLog();
  absl::SetStderrThreshold(absl::LogSeverityAtLeast::kWarning);
  if (arguments.size() != 3) {
    std::fprintf(stderr, "random_engine: give a graph.json and the engine file to write (--help for more)\n");
    return 1;
  }
  const absl::Status status = flashflow::Run(arguments[1], arguments[2]);
  if (status.ok()) return 0;
  std::fprintf(stderr, "random_engine: %s\n", std::string(status.message()).c_str());
  return 1;
}
