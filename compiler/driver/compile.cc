#include "compiler/driver/compile.h"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "compiler/codegen/codegen.h"
#include "compiler/ir/printer.h"
#include "compiler/ir/status_macros.h"
#include "compiler/passes/pipeline.h"
#include "compiler/plan/sha256.h"

namespace flashflow::driver {
namespace {

// Options that a stored graph says too, under their names in the metadata. narrow-weights looks after `dtype`.
struct StoredOption {
  std::string_view name;
  std::string passes::CompileOptions::* field;
};
constexpr StoredOption kStoredOptions[] = {
    {"quantize", &passes::CompileOptions::quantize},
    {"kv_dtype", &passes::CompileOptions::kv_dtype},
};

bool IsStepGraph(const ir::Graph& graph) {
  for (const ir::Value* input : graph.inputs()) {
    if (input->type().is_cache()) return true;
  }
  return false;
}

absl::Status NoStepGraph(const std::vector<passes::PassRecord>& records) {
  std::string reasons;
  for (const passes::PassRecord& record : records) {
    for (const passes::Remark& remark : record.remarks) absl::StrAppend(&reasons, "\n  ", remark.ToString());
  }
  return absl::FailedPreconditionError(
      absl::StrCat("this model cannot be turned into a step graph with a KV cache:",
                   reasons.empty() ? " it has no attention over a batch and a sequence" : reasons));
}

// The options, with what a stored graph says of those that are left open.
absl::StatusOr<passes::CompileOptions> Completed(const passes::CompileOptions& given, const ir::Graph& graph) {
  passes::CompileOptions options = given;
  for (const StoredOption& stored : kStoredOptions) {
    const auto said = graph.metadata().find(stored.name);
    if (!(options.*stored.field).empty() || said == graph.metadata().end()) continue;
    FF_RETURN_IF_ERROR(passes::SetOption(stored.name, said->second, &options));
  }
  return options;
}

}  // namespace

absl::StatusOr<CompiledModel> Compile(const ir::Graph& rectangular, const passes::CompileOptions& given) {
  FF_ASSIGN_OR_RETURN(const passes::CompileOptions options, Completed(given, rectangular));
  CompiledModel model;
  model.step_graph = rectangular.Clone();
  const passes::PassManager manager(passes::StepPipeline());
  FF_ASSIGN_OR_RETURN(model.records, manager.Run(model.step_graph.get(), options));
  if (!IsStepGraph(*model.step_graph)) return NoStepGraph(model.records);
  FF_ASSIGN_OR_RETURN(model.plan, codegen::GeneratePlan(*model.step_graph, options));
  model.plan.graph_sha256 = Sha256Hex(ir::Print(rectangular));
  return model;
}

absl::StatusOr<CompiledRectangle> CompileGraph(const ir::Graph& rectangular, const passes::CompileOptions& options) {
  CompiledRectangle compiled;
  compiled.graph = rectangular.Clone();
  const passes::PassManager manager(passes::GraphPipeline());
  passes::CompileOptions own = options;
  own.consecutive_positions = 0;
  FF_ASSIGN_OR_RETURN(compiled.records, manager.Run(compiled.graph.get(), own));
  FF_ASSIGN_OR_RETURN(compiled.plan, codegen::GenerateGraphPlan(*compiled.graph, options));
  compiled.plan.graph_sha256 = Sha256Hex(ir::Print(rectangular));
  return compiled;
}

absl::StatusOr<plan::ArenaLayout> PlanGraphArena(const plan::Plan& plan, const SymbolValues& most) {
  return codegen::PlanArena(plan, most);
}

absl::StatusOr<std::unique_ptr<ir::Graph>> PrepareForStorage(const ir::Graph& rectangular,
                                                             const passes::CompileOptions& given) {
  FF_ASSIGN_OR_RETURN(const passes::CompileOptions options, Completed(given, rectangular));
  std::unique_ptr<ir::Graph> graph = rectangular.Clone();
  const passes::PassManager manager(passes::StoragePipeline());
  FF_RETURN_IF_ERROR(manager.Run(graph.get(), options).status());
  for (const StoredOption& stored : kStoredOptions) {
    const std::string& value = options.*stored.field;
    if (!value.empty()) graph->metadata()[std::string(stored.name)] = value;
  }
  return graph;
}

}  // namespace flashflow::driver
