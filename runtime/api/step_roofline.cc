#include "runtime/api/step_roofline.h"

#include <algorithm>
#include <cstddef>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "compiler/analysis/cost_model.h"
#include "compiler/analysis/roofline.h"
#include "compiler/ir/op_table.h"
#include "compiler/ir/printer.h"
#include "compiler/ir/status_macros.h"
#include "runtime/core/scheduler.h"

namespace flashflow::runtime {
namespace {

absl::Status CheckSize(const plan::Plan& plan, const StepSize& size) {
  if (size.tokens < 1 || size.tokens > plan.limits.max_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokens is ", size.tokens, "; a step of this plan takes 1 to ", plan.limits.max_tokens));
  }
  if (size.context < size.tokens || size.context > plan.limits.context_length) {
    return absl::InvalidArgumentError(absl::StrCat("context is ", size.context, "; expected ", size.tokens,
                                                   " (the tokens) to ", plan.limits.context_length));
  }
  return absl::OkStatus();
}

// Adds the matrices that a step reads, and whether as codes.
void AddWeights(const plan::Plan& plan, const plan::Step& step, StepRooflineRow* row) {
  for (const int32_t input : step.inputs) {
    if (input < 0) continue;
    const plan::Tensor& tensor = plan.tensors[static_cast<size_t>(input)];
    if (tensor.storage != plan::Storage::kWeight || tensor.shape.size() != 2) continue;
    for (std::string_view source : plan.weights[static_cast<size_t>(tensor.index)].sources) {
      row->coded = absl::ConsumeSuffix(&source, plan::kCodesSuffix) || row->coded;
      row->weights.emplace_back(source);
    }
  }
}

int64_t PagesOf(const plan::Plan& plan, const StepSize& size) {
  return (size.context + plan.cache.page_size - 1) / plan.cache.page_size;
}

}  // namespace

absl::StatusOr<StepRoofline> ComputeStepRoofline(const plan::Plan& plan, const ir::Graph& step_graph,
                                                 const analysis::DeviceSpec& device, const StepSize& size,
                                                 absl::Span<const double> times_us) {
  FF_RETURN_IF_ERROR(CheckSize(plan, size));
  const analysis::Workload workload = {.symbols = {{"T", size.tokens}, {"R", 1}, {"L", 1}, {"P", PagesOf(plan, size)}},
                                       .context = static_cast<double>(size.context)};
  FF_ASSIGN_OR_RETURN(const analysis::Roofline graph, analysis::ComputeRoofline(step_graph, workload, device));
  StepRoofline roofline = {.device = device, .size = size, .rows = {}};
  roofline.launch_us = graph.launch_us;
  // Steps and rows are in program order, and a node that costs nothing has no row: each row is of the next step that
  // could be its.
  size_t step = 0;
  for (const analysis::RooflineRow& row : graph.rows) {
    const auto is_its = [&row](const plan::Step& s) {
      return s.op == ir::OpName(row.node->op()) && s.loc == row.node->loc();
    };
    while (step < plan.steps.size() && !is_its(plan.steps[step])) ++step;
    if (step == plan.steps.size()) {
      return absl::FailedPreconditionError(
          absl::StrCat("the plan has no step for ", ir::Describe(step_graph, *row.node),
                       ": another version of FlashFlow made it; compile the model again"));
    }
    const std::vector<plan::KernelRef>& tactics = plan.steps[step].tactics;
    roofline.rows.push_back({.step = step,
                             .op = plan.steps[step].op,
                             .loc = plan.steps[step].loc,
                             .tactic = tactics.empty() ? "" : tactics[0].id,
                             .weights = {},
                             .bytes = row.cost.bytes(),
                             .flops = row.cost.flops,
                             .floor_us = row.floor_us,
                             .bound_by_memory = row.bound_by_memory,
                             .achieved_us = times_us.empty() ? 0 : times_us[step]});
    AddWeights(plan, plan.steps[step], &roofline.rows.back());
    roofline.floor_us += row.floor_us;
    roofline.achieved_us += roofline.rows.back().achieved_us;
    ++step;
  }
  return roofline;
}

absl::StatusOr<std::vector<double>> TimeSteps(const StepSize& size, absl::Span<const int32_t> pages,
                                              Executor* executor) {
  const plan::Plan& plan = executor->plan();
  FF_RETURN_IF_ERROR(CheckSize(plan, size));
  StepBatch batch;
  batch.pages_per_row = PagesOf(plan, size);
  std::vector<int32_t> tokens;
  for (int64_t t = 0; t < size.tokens; ++t) tokens.push_back(static_cast<int32_t>(t % executor->vocab_size()));
  batch.AddRow(/*request=*/0, tokens, size.context - size.tokens, pages);
  batch.logit_rows = {static_cast<int32_t>(size.tokens - 1)};
  const StepInputs inputs = {.token_ids = batch.token_ids,
                             .positions = batch.positions,
                             .row_start = batch.row_start,
                             .kv_len = batch.kv_len,
                             .block_table = batch.block_table,
                             .logit_rows = batch.logit_rows,
                             .pages_per_row = batch.pages_per_row};
  return executor->TimeSteps(inputs);
}

}  // namespace flashflow::runtime
