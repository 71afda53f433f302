#include "tools/viz/dot.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "tools/viz/heat.h"

namespace flashflow::tools {
namespace {

constexpr int kLongestType = 48;

std::string Shorten(const std::string& text) {
  return text.size() <= kLongestType ? text : text.substr(0, kLongestType - 3) + "...";
}

class Writer {
 public:
  Writer(const Picture& picture, const PictureGraph& graph, char prefix)
      : picture_(picture), graph_(graph), prefix_(prefix) {
    std::map<int, int> position;  // in the layer, by layer
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
      const int layer = graph.nodes[i].layer;
      if (layer >= 0) layers_[layer].push_back(static_cast<int>(i));
    }
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
      const int layer = graph.nodes[i].layer;
      const LayerRun run = RunOf(layer);
      stand_in_.push_back(layer < 0 ? static_cast<int>(i) : layers_[run.first][static_cast<size_t>(position[layer]++)]);
    }
  }

  std::string Write(std::string_view label) {
    absl::StrAppend(&text_, "  subgraph cluster_", std::string(1, prefix_), " {\n    label=", DotString(label),
                    "; fontsize=17; labeljust=l; color=\"#999999\"; style=rounded;\n");
    WriteLayer(-1);
    for (const LayerRun& run : picture_.runs) {
      if (!layers_.contains(run.first)) continue;
      const int count = run.last - run.first + 1;
      const std::string name = count == 1
                                   ? absl::StrCat("layer ", run.first)
                                   : absl::StrCat("layers ", run.first, " to ", run.last, " are alike: x", count);
      absl::StrAppend(&text_, "    subgraph cluster_", std::string(1, prefix_), "_layer", run.first,
                      " {\n      label=", DotString(name),
                      "; fontsize=14; style=\"rounded,filled\"; color=\"#bbbbbb\"; fillcolor=\"#f7f7f7\";\n");
      WriteLayer(run.first);
      absl::StrAppend(&text_, "    }\n");
    }
    WriteEdges();
    absl::StrAppend(&text_, "  }\n");
    return std::move(text_);
  }

 private:
  LayerRun RunOf(int layer) const {
    for (const LayerRun& run : picture_.runs) {
      if (run.first <= layer && layer <= run.last) return run;
    }
    return {layer, layer};
  }

  bool IsShown(int i) const {
    const PictureNode& node = graph_.nodes[static_cast<size_t>(i)];
    const bool scalar = node.op == "constant" && node.type.ends_with("[]");
    return !scalar && !node.at_load && stand_in_[static_cast<size_t>(i)] == i;
  }

  std::string Id(int i) const { return absl::StrCat(std::string(1, prefix_), i); }
  bool IsBefore() const { return prefix_ == 'b'; }

  // The nodes of a layer, those of one region side by side in a cluster.
  void WriteLayer(int layer) {
    std::map<int, std::vector<int>> regions;  // by successor
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const PictureNode& node = graph_.nodes[i];
      if (node.layer != layer || !IsShown(static_cast<int>(i))) continue;
      regions[IsBefore() ? node.successor : -1].push_back(static_cast<int>(i));
    }
    for (const auto& [successor, nodes] : regions) {
      const bool clustered = successor >= 0 && nodes.size() > 1;
      if (clustered) {
        const PictureNode& after = picture_.after.nodes[static_cast<size_t>(successor)];
        const double share = after.share * (RunOf(after.layer).last - RunOf(after.layer).first + 1);
        absl::StrAppend(&text_, "      subgraph cluster_region", successor,
                        " {\n        label=", DotString(absl::StrCat("becomes [", successor, "] ", after.op)),
                        "; labeljust=l; fontsize=12; style=\"rounded,filled\"; color=\"#888888\"; fillcolor=\"",
                        HeatColor(share), "\";\n");
      }
      for (const int i : nodes) WriteNode(i, clustered);
      if (clustered) absl::StrAppend(&text_, "      }\n");
    }
  }

  void WriteNode(int i, bool clustered) {
    const PictureNode& node = graph_.nodes[static_cast<size_t>(i)];
    const LayerRun run = RunOf(node.layer);
    const int count = node.layer < 0 ? 1 : run.last - run.first + 1;
    const double share = node.share * count;
    std::string label = IsBefore() ? node.op : absl::StrCat("[", i, "] ", node.op);
    absl::StrAppend(&label, "\n", Shorten(node.type));
    constexpr double kNoticed = 0.0005;
    if (share >= kNoticed) {
      const std::string times = count == 1 ? "" : absl::StrCat("x", count, ": ");
      absl::StrAppendFormat(&label, "\n%s%.3g us, %.1f%%", times, node.floor_us * count, 100 * share);
    }
    std::string tip = absl::StrCat(node.op, " : ", node.type, "\n", node.loc);
    for (const std::string& source : node.sources) absl::StrAppend(&tip, "\n", source);
    absl::StrAppendFormat(&tip, "\n%.4g MB, %.4g GFLOP, at least %.3g us", node.bytes / 1e6, node.flops / 1e9,
                          node.floor_us);
    if (!node.pass.empty()) absl::StrAppend(&tip, "\nmade by ", node.pass);
    const bool gone = IsBefore() && node.successor < 0;
    if (gone) absl::StrAppend(&tip, "\nfolded, dead, or equal to another");
    absl::StrAppend(&text_, "      ", Id(i), " [label=", DotString(label), ", tooltip=", DotString(tip));
    if (gone) {
      absl::StrAppend(&text_, ", style=\"rounded,dashed\", color=\"#999999\", fontcolor=\"#777777\"");
    } else {
      absl::StrAppend(&text_, ", fillcolor=\"", clustered ? "#ffffff" : HeatColor(share), "\"");
    }
    absl::StrAppend(&text_, "];\n");
  }

  // From one layer to the next of its like an edge goes back to the one that is drawn.
  void WriteEdges() {
    std::set<std::pair<int, int>> drawn;
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const int to = stand_in_[i];
      if (!IsShown(to)) continue;
      for (const int operand : graph_.nodes[i].operands) {
        const int from = stand_in_[static_cast<size_t>(operand)];
        if (from == to || !IsShown(from) || !drawn.emplace(from, to).second) continue;
        absl::StrAppend(&text_, "    ", Id(from), " -> ", Id(to),
                        from > to ? " [style=dashed, color=\"#aa6666\", constraint=false]" : "", ";\n");
      }
    }
  }

  const Picture& picture_;
  const PictureGraph& graph_;
  const char prefix_;
  std::map<int, std::vector<int>> layers_;
  std::vector<int> stand_in_;  // by node: the one that is drawn for it
  std::string text_;
};

std::string Title(std::string_view when, const PictureGraph& graph) {
  return absl::StrFormat("%s: %d nodes, at least %.4g us", when, graph.nodes.size(), graph.floor_us);
}

}  // namespace

std::string DotString(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      absl::StrAppend(&quoted, "\\", std::string(1, c));
    } else if (c == '\n') {
      absl::StrAppend(&quoted, "\\n");
    } else if (static_cast<unsigned char>(c) >= 0x20 && static_cast<unsigned char>(c) < 0x7F) {
      quoted += c;
    } else {
      quoted += '?';  // no renderer agrees with another on the rest
    }
  }
  return quoted + "\"";
}

std::string PictureToDot(const Picture& picture) {
  std::string text = absl::StrCat(
      "digraph picture {\n  graph [fontname=\"Helvetica,Arial,sans-serif\", ranksep=0.25, nodesep=0.2, label=",
      DotString(absl::StrCat(picture.title, " on ", picture.device, ", ", picture.sizes)),
      ", labelloc=t, fontsize=20];\n"
      "  node [shape=box, style=\"rounded,filled\", fillcolor=\"#ffffff\", fontname=\"Helvetica,Arial,sans-serif\", "
      "fontsize=11, "
      "height=0.3, margin=\"0.1,0.04\"];\n"
      "  edge [color=\"#666666\", arrowsize=0.6];\n"
      "  subgraph cluster_legend {\n    label=\"share of the floor time\"; fontsize=14; color=\"#999999\";\n");
  for (size_t i = 0; i < kHeat.size(); ++i) {
    absl::StrAppend(&text, "    legend", i, " [label=", DotString(kHeat[i].label), ", fillcolor=\"", kHeat[i].color,
                    "\"];\n");
    if (i > 0) absl::StrAppend(&text, "    legend", i - 1, " -> legend", i, " [style=invis];\n");
  }
  absl::StrAppend(&text, "  }\n", Writer(picture, picture.before, 'b').Write(Title("before", picture.before)),
                  Writer(picture, picture.after, 'a').Write(Title("after", picture.after)), "}\n");
  return text;
}

}  // namespace flashflow::tools
