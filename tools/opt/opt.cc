// opt: runs passes over a graph, shows what each did, and proves it.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "compiler/analysis/cost_model.h"
#include "compiler/analysis/device_spec.h"
#include "compiler/analysis/liveness.h"
#include "compiler/analysis/roofline.h"
#include "compiler/codegen/codegen.h"
#include "compiler/ir/dim_expr.h"
#include "compiler/ir/dtype.h"
#include "compiler/ir/graph.h"
#include "compiler/ir/printer.h"
#include "compiler/ir/status_macros.h"
#include "compiler/passes/options.h"
#include "compiler/passes/pass_manager.h"
#include "compiler/passes/pipeline.h"
#include "compiler/plan/plan.h"
#include "compiler/proof/prover.h"
#include "runtime/cpu/cpu_spec.h"
#include "tools/opt/command_line.h"
#include "tools/opt/load_graph.h"

ABSL_FLAG(std::vector<std::string>, passes, {}, "passes to run, in this order; default: the whole pipeline");
ABSL_FLAG(std::vector<std::string>, skip_passes, {}, "passes to leave out");
ABSL_FLAG(std::vector<std::string>, options, {}, "compile options as name=value,...: dtype=bf16,page_size=16");
ABSL_FLAG(std::string, o, "",
          "where the graph goes, as .ffir; - is the standard output, which is also the default "
          "if nothing else is asked for");
ABSL_FLAG(std::string, dump_dir, "",
          "folder for the graph before the first pass and after each: 00-input.ffir, "
          "01-canonicalize.ffir, ...");
ABSL_FLAG(bool, list_passes, false, "list the passes and what relation each keeps, and the default pipeline");
ABSL_FLAG(bool, explain, false, "print what each pass did, how long it took, and what it refused and why");
ABSL_FLAG(bool, verify_each, false,
          "prove by evaluation that each pass keeps its relation, then compare the whole "
          "graph; the first pass, rewrite and node that break are named");
ABSL_FLAG(bool, bisect, false, "find the first rewrite after which the graph is broken");
ABSL_FLAG(bool, roofline, false,
          "print the least time that each operation of the resulting graph can take on --device");
ABSL_FLAG(
    bool, arena, false,
    "print, for each token bucket of the plan, the arena of intermediate values beside the least that it could be");
ABSL_FLAG(std::string, device, "h200",
          "of --roofline: a100, h100, h200, cpu (this machine's, measured at first use and kept), or a file like "
          "those in compiler/analysis/data");
ABSL_FLAG(bool, measure_again, false, "of --device cpu: measure this machine anew");
ABSL_FLAG(std::vector<std::string>, sizes, {},
          "of --roofline: symbols of the graph, and for a step graph the mean length of a row in the KV cache, as "
          "T=1,R=1,context=512; default: 1 each, and 512");
ABSL_FLAG(int, cases, 3, "shapes and values in which --verify-each evaluates each region");
ABSL_FLAG(uint64_t, seed, 1, "of the random values of --verify-each and --bisect");

namespace flashflow::tools {
namespace {

using Passes = std::vector<std::unique_ptr<passes::Pass>>;

void ListPasses() {
  for (const auto& pass : passes::AllPasses()) {
    std::printf("%-24s %s\n", std::string(pass->name()).c_str(),
                std::string(passes::RelationName(pass->relation())).c_str());
  }
  std::string pipeline;
  for (const auto& pass : passes::StepPipeline()) absl::StrAppend(&pipeline, pipeline.empty() ? "" : ",", pass->name());
  std::printf("\ndefault: --passes %s\n", pipeline.c_str());
}

absl::StatusOr<Passes> SelectPasses() {
  const std::vector<std::string> names = absl::GetFlag(FLAGS_passes);
  Passes passes = passes::StepPipeline();
  if (!names.empty()) {
    FF_ASSIGN_OR_RETURN(passes, passes::MakePasses(names));
  }
  for (const std::string& name : absl::GetFlag(FLAGS_skip_passes)) {
    FF_RETURN_IF_ERROR(passes::MakePasses({name}).status());  // a pass that does not run may be skipped all the same
    std::erase_if(passes, [&name](const auto& pass) { return pass->name() == name; });
  }
  return passes;
}

std::string Milliseconds(absl::Duration duration) {
  return absl::StrFormat("%.1f ms", absl::ToDoubleMilliseconds(duration));
}

// Columns that line up; refusals below them, equal reasons counted rather than repeated.
void PrintRecord(int index, const passes::PassRecord& record, size_t nodes) {
  std::fprintf(stderr, "%2d %-24s %-12s %5ld rewrites %9s %6zu nodes\n", index + 1, record.pass.c_str(),
               std::string(passes::RelationName(record.relation)).c_str(), static_cast<long>(record.rewrites),
               Milliseconds(record.duration).c_str(), nodes);
  if (!absl::GetFlag(FLAGS_explain)) return;
  for (const passes::Remark& remark : record.remarks) std::fprintf(stderr, "     %s\n", remark.ToString().c_str());
}

absl::Status Dump(int index, std::string_view name, const ir::Graph& graph) {
  const std::string folder = absl::GetFlag(FLAGS_dump_dir);
  if (folder.empty()) return absl::OkStatus();
  return WriteFile(absl::StrFormat("%s/%02d-%s.ffir", folder, index, name), ir::Print(graph));
}

// Runs the passes one by one, with proofs if they are asked for.
absl::Status RunPasses(const Passes& passes, const passes::CompileOptions& options, ir::Graph* graph) {
  FF_RETURN_IF_ERROR(Dump(0, "input", *graph));
  const bool report = absl::GetFlag(FLAGS_explain) || absl::GetFlag(FLAGS_verify_each);
  absl::Status dumped;
  const auto after = [&](int index, const passes::PassRecord& record, const ir::Graph& g) {
    if (report) PrintRecord(index, record, g.nodes().size());
    dumped.Update(Dump(index + 1, record.pass, g));
  };
  if (!absl::GetFlag(FLAGS_verify_each)) {
    FF_RETURN_IF_ERROR(CheckOptions(options));
    for (size_t i = 0; i < passes.size(); ++i) {
      passes::PassContext context(passes[i]->name(), options);
      FF_ASSIGN_OR_RETURN(const passes::PassRecord record, passes::RunPass(*passes[i], graph, &context));
      after(static_cast<int>(i), record, *graph);
    }
    return dumped;
  }
  const absl::Time start = absl::Now();
  proof::Prover prover(options, {.cases = absl::GetFlag(FLAGS_cases), .seed = absl::GetFlag(FLAGS_seed)});
  prover.set_after([&](int index, const proof::PassProof& proof, const ir::Graph& g) {
    after(index, proof.record, g);
    std::fprintf(stderr, "     %s in %s: %ld values, %ld rewritten regions, %ld evaluated\n",
                 proof.violation.has_value() ? "broken" : "proved", Milliseconds(proof.duration).c_str(),
                 static_cast<long>(proof.claims), static_cast<long>(proof.regions), static_cast<long>(proof.evaluated));
  });
  FF_ASSIGN_OR_RETURN(const proof::ProofReport proved, prover.Prove(passes, graph));
  FF_RETURN_IF_ERROR(dumped);
  if (proved.violation.has_value()) {
    return absl::InternalError(absl::StrCat(proved.violation->ToString(), "\n", proved.violation->region));
  }
  std::fprintf(stderr, "   whole graph compared in %s; all in %s\n", Milliseconds(proved.whole).c_str(),
               Milliseconds(absl::Now() - start).c_str());
  return absl::OkStatus();
}

// --sizes over the graph's symbols.
absl::StatusOr<analysis::Workload> ParseSizes(const ir::Graph& graph) {
  analysis::Workload workload = {.symbols = {}, .context = 512};
  for (const auto& [name, range] : graph.symbols()) workload.symbols[name] = std::max<int64_t>(range.min, 1);
  for (const std::string& size : absl::GetFlag(FLAGS_sizes)) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(size, absl::MaxSplits('=', 1));
    int64_t value = 0;
    if (!absl::SimpleAtoi(parts.second, &value) || value < 0) {
      return absl::InvalidArgumentError(absl::StrCat("--sizes: expected name=number, got \"", size, "\""));
    }
    if (parts.first == "context") {
      workload.context = static_cast<double>(value);
    } else if (workload.symbols.contains(parts.first)) {
      workload.symbols[parts.first] = value;
    } else {
      return absl::InvalidArgumentError(absl::StrCat("--sizes: the graph has no symbol \"", parts.first, "\""));
    }
  }
  return workload;
}

absl::Status PrintRoofline(const ir::Graph& graph) {
  FF_ASSIGN_OR_RETURN(
      const analysis::DeviceSpec device,
      runtime::FindDeviceSpec(absl::GetFlag(FLAGS_device), {.measure_again = absl::GetFlag(FLAGS_measure_again)}));
  FF_ASSIGN_OR_RETURN(const analysis::Workload workload, ParseSizes(graph));
  FF_ASSIGN_OR_RETURN(const analysis::Roofline roofline, analysis::ComputeRoofline(graph, workload, device));
  std::fprintf(stderr, "%s", analysis::RooflineToText(roofline, device).c_str());
  return absl::OkStatus();
}

// Of the step graph's plan.
absl::Status PrintArena(const ir::Graph& graph, const passes::CompileOptions& options) {
  FF_ASSIGN_OR_RETURN(const plan::Plan plan, codegen::GeneratePlan(graph, options));
  const std::vector<analysis::LiveRange> ranges = analysis::ArenaLiveRanges(plan);
  const auto buffers = std::ranges::count_if(ranges, [](const analysis::LiveRange& r) { return r.first >= 0; });
  std::fprintf(stderr, "%zu steps, %ld buffers\n%8s %16s %16s %8s %16s\n", plan.steps.size(),
               static_cast<long>(buffers), "tokens", "live bytes", "arena bytes", "above", "unshared bytes");
  for (const plan::Bucket& bucket : plan.buckets) {
    const SymbolValues symbols = plan::BucketSymbols(plan, bucket);
    std::vector<int64_t> bytes;
    int64_t unshared = 0;
    for (size_t i = 0; i < plan.tensors.size(); ++i) {
      FF_ASSIGN_OR_RETURN(const int64_t count, NumElements(plan.tensors[i].shape).Evaluate(symbols));
      bytes.push_back(count * DTypeBytes(plan.tensors[i].dtype));
      if (ranges[i].first >= 0) unshared += bytes.back();
    }
    const int64_t live = analysis::PeakLiveBytes(ranges, bytes);
    std::fprintf(stderr, "%8ld %16ld %16ld %7.2f%% %16ld\n", static_cast<long>(bucket.max_tokens),
                 static_cast<long>(live), static_cast<long>(bucket.arena_bytes),
                 live > 0 ? 100.0 * static_cast<double>(bucket.arena_bytes - live) / static_cast<double>(live) : 0.0,
                 static_cast<long>(unshared));
  }
  return absl::OkStatus();
}

absl::Status Bisect(const Passes& passes, const passes::CompileOptions& options, const ir::Graph& graph) {
  proof::Prover prover(options, {.cases = absl::GetFlag(FLAGS_cases), .seed = absl::GetFlag(FLAGS_seed)});
  const absl::StatusOr<proof::Bisection> found = prover.Bisect(passes, graph);
  if (absl::IsNotFound(found.status())) {
    std::fprintf(stderr, "%s\n", std::string(found.status().message()).c_str());
    return absl::OkStatus();
  }
  FF_RETURN_IF_ERROR(found.status());
  return absl::InternalError(absl::StrCat("pass ", found->pass_index + 1, ", ", passes[found->pass_index]->name(),
                                          ", breaks at its rewrite ", found->rewrite, "\n", found->violation.ToString(),
                                          "\n", found->violation.region));
}

absl::Status Run(const std::vector<std::string>& arguments, const std::string& exporter) {
  if (absl::GetFlag(FLAGS_list_passes)) {
    ListPasses();
    return absl::OkStatus();
  }
  if (arguments.size() != 1) {
    return absl::InvalidArgumentError("give one graph or model: opt in.ffir (--help for more)");
  }
  FF_ASSIGN_OR_RETURN(const Passes passes, SelectPasses());
  FF_ASSIGN_OR_RETURN(const passes::CompileOptions options, ParseOptions(absl::GetFlag(FLAGS_options)));
  const std::string folder = absl::GetFlag(FLAGS_dump_dir);
  if (!folder.empty()) {
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error) return absl::UnavailableError(absl::StrCat("cannot make the folder ", folder, ": ", error.message()));
  }
  FF_ASSIGN_OR_RETURN(const std::unique_ptr<ir::Graph> graph, LoadGraph(arguments[0], exporter));
  if (absl::GetFlag(FLAGS_bisect)) return Bisect(passes, options, *graph);
  FF_RETURN_IF_ERROR(RunPasses(passes, options, graph.get()));
  if (absl::GetFlag(FLAGS_roofline)) FF_RETURN_IF_ERROR(PrintRoofline(*graph));
  if (absl::GetFlag(FLAGS_arena)) FF_RETURN_IF_ERROR(PrintArena(*graph, options));
  const std::string out = absl::GetFlag(FLAGS_o);
  if (!out.empty()) return WriteFile(out, ir::Print(*graph));
  const bool asked = absl::GetFlag(FLAGS_explain) || absl::GetFlag(FLAGS_verify_each) ||
                     absl::GetFlag(FLAGS_roofline) || absl::GetFlag(FLAGS_arena) || !folder.empty();
  return asked ? absl::OkStatus() : WriteFile("-", ir::Print(*graph));
}

}  // namespace
}  // namespace flashflow::tools

int main(int argc, char** argv) {
  return flashflow::tools::RunGraphTool(
      "opt",
      "runs the compiler's passes over a graph. Reports go to the standard error.\n\n"
      "  opt GRAPH [--passes a,b] [--skip-passes c] [--explain] [--verify-each] [--bisect] [--roofline] [--arena] "
      "[--dump-dir DIR] [-o FILE]",
      argc, argv, flashflow::tools::Run);
}
