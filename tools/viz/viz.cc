// viz: a graph before and after the compiler's passes, as a picture.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "compiler/analysis/cost_model.h"
#include "compiler/analysis/device_spec.h"
#include "compiler/ir/graph.h"
#include "compiler/ir/status_macros.h"
#include "compiler/passes/options.h"
#include "compiler/passes/pass_manager.h"
#include "compiler/passes/pipeline.h"
#include "runtime/cpu/cpu_spec.h"
#include "tools/opt/command_line.h"
#include "tools/opt/load_graph.h"
#include "tools/viz/dot.h"
#include "tools/viz/html.h"
#include "tools/viz/picture.h"
#include "tools/viz/provenance.h"
#include "tools/viz/render.h"

ABSL_FLAG(std::string, o, "", "where the picture goes: a file that ends in .html, .svg, .png or .dot");
ABSL_FLAG(std::vector<std::string>, passes, {}, "passes to run, in this order; default: the whole pipeline");
ABSL_FLAG(std::vector<std::string>, options, {}, "compile options as name=value,...: dtype=bf16,page_size=16");
ABSL_FLAG(std::string, device, "h200",
          "whose floors: a100, h100, h200, cpu (this machine's, measured at first use and kept), or a file like those "
          "in compiler/analysis/data");
ABSL_FLAG(int64_t, tokens, 1, "of the step, all of one sequence; the graph before is looked at with as many");
ABSL_FLAG(int64_t, context, 512, "tokens of that sequence in the KV cache, the step's own included");

namespace flashflow::tools {
namespace {

using Write = absl::Status (*)(const Picture& picture, const std::string& path);

constexpr std::pair<std::string_view, Write> kFormats[] = {
    {".html", [](const Picture& p, const std::string& path) { return WriteFile(path, PictureToHtml(p)); }},
    {".dot", [](const Picture& p, const std::string& path) { return WriteFile(path, PictureToDot(p)); }},
    {".svg", [](const Picture& p, const std::string& path) { return RenderDot(PictureToDot(p), "svg", path); }},
    {".png", [](const Picture& p, const std::string& path) { return RenderDot(PictureToDot(p), "png", path); }},
};

// Sequence and tokens are as many as asked for, every other symbol is as small as it may be.
analysis::Workload Sizes(const ir::Graph& graph, int64_t tokens, int64_t context) {
  analysis::Workload workload = {.symbols = {}, .context = static_cast<double>(context)};
  for (const auto& [name, range] : graph.symbols()) {
    const bool is_tokens = name == "T" || name == "S";
    workload.symbols[name] = std::clamp<int64_t>(is_tokens ? tokens : 1, range.min, range.max);
  }
  return workload;
}

absl::Status Run(const std::vector<std::string>& arguments, const std::string& exporter) {
  if (arguments.size() != 1) {
    return absl::InvalidArgumentError("give one graph or model: viz smollm2-135m -o out.html (--help for more)");
  }
  const std::string out = absl::GetFlag(FLAGS_o);
  const auto* format =
      std::ranges::find_if(kFormats, [&out](const auto& row) { return absl::EndsWith(out, row.first); });
  if (format == std::end(kFormats)) {
    return absl::InvalidArgumentError(
        absl::StrCat("-o: expected a file that ends in .html, .svg, .png or .dot, got \"", out, "\""));
  }
  const int64_t tokens = absl::GetFlag(FLAGS_tokens), context = absl::GetFlag(FLAGS_context);
  if (tokens < 1 || context < tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected 1 <= --tokens <= --context, got ", tokens, " and ", context));
  }
  std::vector<std::unique_ptr<passes::Pass>> pipeline = passes::StepPipeline();
  if (const std::vector<std::string> names = absl::GetFlag(FLAGS_passes); !names.empty()) {
    FF_ASSIGN_OR_RETURN(pipeline, passes::MakePasses(names));
  }
  FF_ASSIGN_OR_RETURN(const passes::CompileOptions options, ParseOptions(absl::GetFlag(FLAGS_options)));
  FF_RETURN_IF_ERROR(CheckOptions(options));
  FF_ASSIGN_OR_RETURN(const analysis::DeviceSpec device, runtime::FindDeviceSpec(absl::GetFlag(FLAGS_device), {}));
  FF_ASSIGN_OR_RETURN(const std::unique_ptr<ir::Graph> graph, LoadGraph(arguments[0], exporter));

  Provenance provenance(graph.get());
  for (const auto& pass : pipeline) {
    provenance.BeginPass(pass->name());
    passes::PassContext pass_context(pass->name(), options);
    FF_RETURN_IF_ERROR(passes::RunPass(*pass, graph.get(), &pass_context).status());
    provenance.EndPass();
  }
  FF_ASSIGN_OR_RETURN(Picture picture, MakePicture(provenance, *graph, Sizes(provenance.before(), tokens, context),
                                                   Sizes(*graph, tokens, context), device));
  picture.sizes = absl::StrCat(tokens, tokens == 1 ? " token" : " tokens", ", with ", context,
                               " in the KV cache once there is one");
  FF_RETURN_IF_ERROR(format->second(picture, out));
  std::fprintf(stderr, "%s: %zu nodes before, %zu after\n", out.c_str(), picture.before.nodes.size(),
               picture.after.nodes.size());
  return absl::OkStatus();
}

}  // namespace
}  // namespace flashflow::tools

int main(int argc, char** argv) {
  return flashflow::tools::RunGraphTool(
      "viz",
      "draws a graph before and after the compiler's passes. .svg and .png are laid out by Graphviz, which must be "
      "installed.\n\n"
      "  viz GRAPH -o out.html|out.svg|out.png|out.dot [--device h200] [--tokens 1] [--context 512]",
      argc, argv, flashflow::tools::Run);
}
