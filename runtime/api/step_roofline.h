// What each step of a plan costs at least on a device, and what it takes here.
#ifndef RUNTIME_API_STEP_ROOFLINE_H_
#define RUNTIME_API_STEP_ROOFLINE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compiler/analysis/device_spec.h"
#include "compiler/ir/graph.h"
#include "compiler/plan/plan.h"
#include "runtime/core/executor.h"

namespace flashflow::runtime {

// One row of a batch: `tokens` new tokens, after which it has `context` positions in the KV cache.
struct StepSize {
  int64_t tokens = 1;
  int64_t context = 512;
};

struct StepRooflineRow {
  size_t step = 0;  // of the plan
  std::string op, loc;
  std::string tactic;                // the kernel, and where it ran what of its config is not the default
  std::vector<std::string> weights;  // the model's matrices that it reads, by their names in the model
  bool coded = false;                // it reads them as int8 codes
  double bytes = 0;                  // that must move, read and written
  double flops = 0;
  double floor_us = 0;  // the longer of moving the bytes and doing the arithmetic
  bool bound_by_memory = true;
  double achieved_us = 0;  // 0: not measured
};

struct StepRoofline {
  analysis::DeviceSpec device;  // of the floors
  StepSize size;
  std::vector<StepRooflineRow> rows;  // the plan's steps in order, but for those that cost nothing
  double floor_us = 0;                // the rows' sum
  double launch_us = 0;               // of the device's gaps between the rows, not in floor_us
  double achieved_us = 0;             // the rows' sum; 0: not measured
};

// The plan's step graph must be the one that it was generated from. times_us: of each of the plan's steps; empty: not
// measured. FailedPrecondition for another graph; InvalidArgument for a size that the plan does not take.
absl::StatusOr<StepRoofline> ComputeStepRoofline(const plan::Plan& plan, const ir::Graph& step_graph,
                                                 const analysis::DeviceSpec& device, const StepSize& size,
                                                 absl::Span<const double> times_us);

// Executor::TimeSteps of one such row, whose tokens and cache are arbitrary. `pages` of the cache are written to and
// must hold the row. InvalidArgument as above.
absl::StatusOr<std::vector<double>> TimeSteps(const StepSize& size, absl::Span<const int32_t> pages,
                                              Executor* executor);

}  // namespace flashflow::runtime

#endif  // RUNTIME_API_STEP_ROOFLINE_H_
