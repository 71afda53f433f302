// The least time that each operation of a graph, and all of it, can take on a device: the longer of moving its bytes
// and doing its arithmetic (Williams et al., Roofline).
#ifndef COMPILER_ANALYSIS_ROOFLINE_H_
#define COMPILER_ANALYSIS_ROOFLINE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compiler/analysis/cost_model.h"
#include "compiler/analysis/device_spec.h"
#include "compiler/ir/graph.h"

namespace flashflow::analysis {

struct RooflineRow {
  const ir::Node* node = nullptr;
  OpCost cost;
  double floor_us = 0;
  bool bound_by_memory = true;  // else by arithmetic
};

struct Roofline {
  std::vector<RooflineRow> rows;  // of the nodes that cost anything, in program order
  double floor_us = 0;            // their sum: they run one after the other
  double launch_us = 0;           // rows times the device's gap between dependent steps, which is not in floor_us
  OpCost total;                   // its dtype means nothing
};

absl::StatusOr<Roofline> ComputeRoofline(const ir::Graph& graph, const Workload& workload, const DeviceSpec& device);

// A table for people: rows of one op and one cost are counted rather than repeated, with the first one's location.
std::string RooflineToText(const Roofline& roofline, const DeviceSpec& device);

}  // namespace flashflow::analysis

#endif  // COMPILER_ANALYSIS_ROOFLINE_H_
