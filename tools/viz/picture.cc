#include "tools/viz/picture.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "compiler/analysis/loaded_weight.h"
#include "compiler/analysis/roofline.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::tools {
namespace {

using ir::Node;
using ir::Value;
using ir::ValueKind;

// The nodes, by index, and where each is.
absl::StatusOr<PictureGraph> Draw(const ir::Graph& graph, const analysis::Workload& workload,
                                  const analysis::DeviceSpec& device, absl::flat_hash_map<const Node*, int>* index_of) {
  PictureGraph picture;
  for (const auto& node : graph.nodes()) {
    PictureNode& drawn = picture.nodes.emplace_back();
    (*index_of)[node.get()] = static_cast<int>(picture.nodes.size()) - 1;
    drawn.op = std::string(ir::OpName(node->op()));
    drawn.type = absl::StrJoin(node->results(), ", ", [](std::string* out, const Value* result) {
      absl::StrAppend(out, result->type().ToString());
    });
    drawn.loc = node->loc();
    drawn.layer = LayerOf(node->loc());
    drawn.at_load = analysis::AsLoadedWeight(*node->result()).has_value();
    for (const Value* operand : node->operands()) {
      if (operand == nullptr) continue;
      if (operand->kind() == ValueKind::kResult) {
        drawn.operands.push_back(index_of->at(operand->def()));
      } else {
        drawn.sources.push_back(absl::StrCat(operand->kind() == ValueKind::kInput ? "input " : "weight ",
                                             operand->name(), " : ", operand->type().ToString()));
      }
    }
  }
  FF_ASSIGN_OR_RETURN(const analysis::Roofline roofline, analysis::ComputeRoofline(graph, workload, device));
  picture.floor_us = roofline.floor_us;
  for (const analysis::RooflineRow& row : roofline.rows) {
    PictureNode& drawn = picture.nodes[static_cast<size_t>(index_of->at(row.node))];
    drawn.bytes = row.cost.bytes();
    drawn.flops = row.cost.flops;
    drawn.floor_us = row.floor_us;
    drawn.share = picture.floor_us > 0 ? row.floor_us / picture.floor_us : 0;
  }
  return picture;
}

// What a layer looks like: ops and types, in order.
using Look = std::vector<std::string>;

void CollectLooks(const PictureGraph& graph, std::string_view side, std::map<int, Look>* looks) {
  for (const PictureNode& node : graph.nodes) {
    if (node.layer >= 0) (*looks)[node.layer].push_back(absl::StrCat(side, " ", node.op, " ", node.type));
  }
}

}  // namespace

int LayerOf(std::string_view loc) {
  const std::string_view path = loc.substr(0, loc.find(' '));
  for (const std::string_view part : absl::StrSplit(path, '.')) {
    int number = -1;
    if (part.size() < 6 && absl::SimpleAtoi(part, &number) && number >= 0) return number;
  }
  return -1;
}

absl::StatusOr<Picture> MakePicture(const Provenance& provenance, const ir::Graph& after,
                                    const analysis::Workload& before_workload, const analysis::Workload& after_workload,
                                    const analysis::DeviceSpec& device) {
  Picture picture;
  picture.title = after.name();
  picture.device = device.name;
  absl::flat_hash_map<const Node*, int> before_index, after_index;
  FF_ASSIGN_OR_RETURN(picture.before, Draw(provenance.before(), before_workload, device, &before_index));
  FF_ASSIGN_OR_RETURN(picture.after, Draw(after, after_workload, device, &after_index));
  for (const auto& [node, index] : after_index) {
    picture.after.nodes[static_cast<size_t>(index)].pass = provenance.MadeBy(node);
  }
  for (const auto& [before, successor] : provenance.Successors()) {
    const int index = after_index.at(successor);
    PictureNode& node = picture.before.nodes[static_cast<size_t>(before_index.at(before))];
    node.successor = index;
    // A region is drawn in one layer, its successor's.
    node.layer = picture.after.nodes[static_cast<size_t>(index)].layer;
  }
  std::map<int, Look> looks;
  CollectLooks(picture.before, "before", &looks);
  CollectLooks(picture.after, "after", &looks);
  for (const auto& [layer, look] : looks) {
    if (!picture.runs.empty() && picture.runs.back().last == layer - 1 && looks.at(picture.runs.back().first) == look) {
      picture.runs.back().last = layer;
    } else {
      picture.runs.push_back({layer, layer});
    }
  }
  return picture;
}

}  // namespace flashflow::tools
