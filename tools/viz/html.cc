#include "tools/viz/html.h"

#include <string_view>

#include "absl/strings/str_replace.h"
#include "nlohmann/json.hpp"
#include "tools/viz/heat.h"

namespace flashflow::tools {
namespace {

using json = nlohmann::ordered_json;

constexpr std::string_view kPage =
#include "tools/viz/page.inc"
    ;

json GraphJson(const PictureGraph& graph) {
  json nodes = json::array();
  for (const PictureNode& node : graph.nodes) {
    nodes.push_back({{"op", node.op},
                     {"type", node.type},
                     {"loc", node.loc},
                     {"pass", node.pass},
                     {"sources", node.sources},
                     {"operands", node.operands},
                     {"at_load", node.at_load},
                     {"bytes", node.bytes},
                     {"flops", node.flops},
                     {"floor_us", node.floor_us},
                     {"share", node.share},
                     {"layer", node.layer},
                     {"successor", node.successor}});
  }
  return {{"floor_us", graph.floor_us}, {"nodes", nodes}};
}

}  // namespace

std::string PictureToHtml(const Picture& picture) {
  json heat = json::array();
  for (const HeatStep& step : kHeat)
    heat.push_back({{"least", step.least}, {"color", step.color}, {"label", step.label}});
  json runs = json::array();
  for (const LayerRun& run : picture.runs) runs.push_back({run.first, run.last});
  const json whole = {{"title", picture.title},
                      {"device", picture.device},
                      {"sizes", picture.sizes},
                      {"heat", heat},
                      {"runs", runs},
                      {"before", GraphJson(picture.before)},
                      {"after", GraphJson(picture.after)}};
  // Inside a script element nothing but "<" could end it; names that are no UTF-8 lose their odd bytes.
  const std::string data = absl::StrReplaceAll(
      whole.dump(-1, ' ', /*ensure_ascii=*/true, json::error_handler_t::replace), {{"<", "\\u003c"}});
  return absl::StrReplaceAll(kPage, {{"@PICTURE@", data}});
}

}  // namespace flashflow::tools
