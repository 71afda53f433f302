// What there is to draw: a graph before and after passes, node by node, with costs, layers and what became of what.
#ifndef TOOLS_VIZ_PICTURE_H_
#define TOOLS_VIZ_PICTURE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compiler/analysis/cost_model.h"
#include "compiler/analysis/device_spec.h"
#include "compiler/ir/graph.h"
#include "tools/viz/provenance.h"

namespace flashflow::tools {

struct PictureNode {
  std::string op;
  std::string type;  // of the results: "f32[T, 960]"
  std::string loc;
  std::string pass;                  // of the graph after: what made it; empty: it was there
  std::vector<std::string> sources;  // inputs and weights that it reads, with their types
  std::vector<int> operands;         // nodes of the same graph, by index
  bool at_load = false;              // the loader makes it of weights
  double bytes = 0, flops = 0, floor_us = 0;
  double share = 0;    // of the graph's floor time, 0 to 1
  int layer = -1;      // by the first number in its location's path; -1: in none
  int successor = -1;  // of the graph before: the node after that does its work; -1: none does
};

struct PictureGraph {
  std::vector<PictureNode> nodes;  // in program order
  double floor_us = 0;
};

// Layers first..last that look the same, before and after.
struct LayerRun {
  int first = 0;
  int last = 0;
};

struct Picture {
  std::string title;   // the graph's name
  std::string device;  // whose floors these are
  std::string sizes;   // at which the graphs are looked at: "T = 1, R = 1, context = 512"
  PictureGraph before, after;
  std::vector<LayerRun> runs;  // ascending, every layer in one
};

// The sizes of each graph are its own: the symbols of the two have other names. The errors of the cost model.
absl::StatusOr<Picture> MakePicture(const Provenance& provenance, const ir::Graph& after,
                                    const analysis::Workload& before_workload, const analysis::Workload& after_workload,
                                    const analysis::DeviceSpec& device);

// The first whole number among the parts of a location's path: 3 of "model.layers.3.mlp (llama.py:88)"; -1 if none.
int LayerOf(std::string_view loc);

}  // namespace flashflow::tools

#endif  // TOOLS_VIZ_PICTURE_H_
