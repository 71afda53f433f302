#include "runtime/api/engine_builder.h"

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/log/log.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "compiler/driver/compile.h"
#include "compiler/ir/printer.h"
#include "compiler/ir/status_macros.h"
#include "compiler/plan/plan.h"
#include "runtime/api/coded_weights.h"
#include "runtime/api/model_config.h"
#include "runtime/api/plan_options.h"
#include "runtime/engine/engine_format.h"

namespace flashflow::runtime {
namespace {

absl::StatusOr<engine::WeightSpec> SpecOf(const ir::Value& weight) {
  engine::WeightSpec spec{weight.name(), weight.tensor().dtype, {}};
  for (const DimExpr& dim : weight.tensor().shape) {
    const std::optional<int64_t> value = dim.constant();
    if (!value) {
      return absl::InvalidArgumentError(absl::StrCat("weight \"", weight.name(), "\" has the shape ",
                                                     DimsToString(weight.tensor().shape), ", which is not constant"));
    }
    spec.shape.push_back(*value);
  }
  return spec;
}

// With the reason of each layer.
absl::Status NothingCoded(const driver::CompiledModel& compiled) {
  std::string reasons;
  for (const passes::PassRecord& record : compiled.records) {
    if (!absl::StartsWith(record.pass, "quantize-")) continue;
    for (const passes::Remark& remark : record.remarks) absl::StrAppend(&reasons, "\n  ", remark.ToString());
  }
  return absl::FailedPreconditionError(absl::StrCat("no layer of this model can be of codes:",
                                                    reasons.empty() ? " it has none of stored weights" : reasons));
}

}  // namespace

absl::Status BuildEngine(const std::string& path, const ir::Graph& rectangular, const ModelFiles& files,
                         const passes::CompileOptions& options, const engine::WeightSource& source,
                         const engine::WriteProgress& progress) {
  FF_RETURN_IF_ERROR(ParseModelConfig(files.config_json).status());
  FF_ASSIGN_OR_RETURN(const std::unique_ptr<ir::Graph> stored, driver::PrepareForStorage(rectangular, options));
  FF_ASSIGN_OR_RETURN(const driver::CompiledModel compiled, driver::Compile(*stored, options));
  // A GPU's plan needs no GPU. A graph that it has no kernels for is the CPU's alone; whoever opens it there is told.
  const absl::StatusOr<driver::CompiledModel> on_gpu = driver::Compile(*stored, PlanOptions("cuda", *stored));
  if (!on_gpu.ok()) LOG(INFO) << path << " holds no plan for cuda: " << on_gpu.status().message();

  engine::EngineContents contents;
  contents.producer = absl::StrCat("flashflow ", kVersion);
  contents.sections = {{std::string(engine::kGraphSection), ir::Print(*stored)},
                       {absl::StrCat(engine::kPlanSectionPrefix, options.device), plan::ToJson(compiled.plan)},
                       {std::string(engine::kConfigSection), files.config_json}};
  if (!files.tokenizer_json.empty()) {
    contents.sections.push_back({std::string(engine::kTokenizerSection), files.tokenizer_json});
  }
  if (on_gpu.ok()) {
    contents.sections.push_back({absl::StrCat(engine::kPlanSectionPrefix, "cuda"), plan::ToJson(on_gpu->plan)});
  }
  CodedWeights coded;
  FF_RETURN_IF_ERROR(coded.Add(compiled.plan));
  if (on_gpu.ok()) FF_RETURN_IF_ERROR(coded.Add(on_gpu->plan));
  if (!options.quantize.empty() && coded.empty()) return NothingCoded(compiled);
  for (const ir::Value* weight : stored->weights()) {
    FF_ASSIGN_OR_RETURN(const engine::WeightSpec spec, SpecOf(*weight));
    for (engine::WeightSpec& held : coded.Specs(spec)) contents.weights.push_back(std::move(held));
  }
  LOG(INFO) << "building " << path << ": " << contents.weights.size() << " weights, " << compiled.plan.steps.size()
            << " steps";
  return engine::WriteEngine(path, contents, coded.Source(source), progress);
}

}  // namespace flashflow::runtime
