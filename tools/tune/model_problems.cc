#include "tools/tune/model_problems.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "compiler/ir/status_macros.h"
#include "kernels/registry/launcher.h"
#include "kernels/registry/step_problem.h"

namespace flashflow::tools {
namespace {

constexpr int64_t kMostDecoding = 16;

absl::StatusOr<kernels::TensorView> ViewOf(const plan::Plan& plan, int32_t index, const SymbolValues& symbols) {
  kernels::TensorView view;
  if (index < 0) return view;
  const plan::Tensor& tensor = plan.tensors[static_cast<size_t>(index)];
  view.dtype = tensor.dtype;
  if (tensor.shape.size() > kernels::kMaxRank) return view;
  for (const DimExpr& dim : tensor.shape) {
    FF_ASSIGN_OR_RETURN(view.dims[static_cast<size_t>(view.rank)], dim.Evaluate(symbols));
    ++view.rank;
  }
  return view;
}

}  // namespace

absl::StatusOr<std::vector<kernels::Problem>> ProblemsOfPlan(const plan::Plan& plan, absl::Span<const int64_t> tokens) {
  std::vector<kernels::Problem> problems;
  std::set<std::string> seen;
  for (int64_t count : tokens) {
    if (count < 1 || count > plan.limits.max_tokens) {
      return absl::InvalidArgumentError(
          absl::StrCat(count, " tokens; a step of this model takes 1 to ", plan.limits.max_tokens));
    }
    const int64_t rows = count <= kMostDecoding ? count : 1;
    const SymbolValues symbols = {{"T", count}, {"R", rows}, {"L", rows}, {"P", 1}};
    for (const plan::Step& step : plan.steps) {
      std::vector<kernels::TensorView> inputs;
      for (int32_t index : step.inputs) {
        FF_ASSIGN_OR_RETURN(inputs.emplace_back(), ViewOf(plan, index, symbols));
      }
      const std::optional<kernels::Problem> problem = kernels::ProblemOfStep(step.op, step.attrs, inputs);
      if (problem && seen.insert(kernels::ProblemToText(*problem)).second) problems.push_back(*problem);
    }
  }
  return problems;
}

}  // namespace flashflow::tools
