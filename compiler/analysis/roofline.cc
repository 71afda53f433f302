#include "compiler/analysis/roofline.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::analysis {

absl::StatusOr<Roofline> ComputeRoofline(const ir::Graph& graph, const Workload& workload, const DeviceSpec& device) {
  Roofline roofline;
  for (const auto& node : graph.nodes()) {
    FF_ASSIGN_OR_RETURN(const OpCost cost, CostOf(*node, workload));
    if (cost.bytes() == 0 && cost.flops == 0) continue;
    const double memory_us = cost.bytes() / (device.read_gb_per_s * 1e3);
    const double arithmetic_us = cost.flops / FlopPerS(device, cost.dtype) * 1e6;
    roofline.rows.push_back({node.get(), cost, std::max(memory_us, arithmetic_us), memory_us >= arithmetic_us});
    roofline.floor_us += roofline.rows.back().floor_us;
    roofline.total.bytes_read += cost.bytes_read;
    roofline.total.bytes_written += cost.bytes_written;
    roofline.total.flops += cost.flops;
  }
  roofline.launch_us = static_cast<double>(roofline.rows.size()) * device.launch_us;
  return roofline;
}

std::string RooflineToText(const Roofline& roofline, const DeviceSpec& device) {
  struct Group {
    const RooflineRow* first;
    int count;
  };
  std::vector<Group> groups;
  for (const RooflineRow& row : roofline.rows) {
    const auto same = std::ranges::find_if(groups, [&row](const Group& group) {
      return group.first->node->op() == row.node->op() && group.first->cost == row.cost;
    });
    if (same == groups.end()) {
      groups.push_back({&row, 1});
    } else {
      ++same->count;
    }
  }
  std::ranges::stable_sort(
      groups, [](const Group& a, const Group& b) { return a.count * a.first->floor_us > b.count * b.first->floor_us; });
  std::string text = absl::StrFormat("%s: %.0f GB/s (%s)\n", device.name, device.read_gb_per_s, device.source);
  absl::StrAppendFormat(&text, "%-18s %5s %12s %12s %11s %7s %-10s %s\n", "op", "count", "MB each", "GFLOP each",
                        "floor us", "share", "bound by", "first at");
  for (const Group& group : groups) {
    const double floor_us = group.count * group.first->floor_us;
    absl::StrAppendFormat(&text, "%-18s %5d %12.4f %12.5f %11.2f %6.1f%% %-10s %s\n",
                          std::string(ir::OpName(group.first->node->op())), group.count,
                          group.first->cost.bytes() / 1e6, group.first->cost.flops / 1e9, floor_us,
                          roofline.floor_us > 0 ? 100 * floor_us / roofline.floor_us : 0,
                          group.first->bound_by_memory ? "memory" : "arithmetic", group.first->node->loc());
  }
  absl::StrAppendFormat(&text, "%-18s %5d %12.4f %12.5f %11.2f\n", "all", roofline.rows.size(),
                        roofline.total.bytes() / 1e6, roofline.total.flops / 1e9, roofline.floor_us);
  absl::StrAppendFormat(&text, "gaps between %d dependent steps: %.1f us more, unless they overlap\n",
                        roofline.rows.size(), roofline.launch_us);
  return text;
}

}  // namespace flashflow::analysis
