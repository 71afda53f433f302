// tune: finds the fastest configuration of each kernel for the sizes of a model on this machine, and keeps it.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "compiler/analysis/device_spec.h"
#include "compiler/driver/compile.h"
#include "compiler/ir/status_macros.h"
#include "kernels/registry/cpu_tactics.h"
#include "kernels/registry/device_limits.h"
#include "kernels/registry/problem.h"
#include "kernels/registry/tactic.h"
#include "nlohmann/json.hpp"
#include "runtime/core/autotuner.h"
#include "runtime/core/tuning_database.h"
#include "runtime/cpu/cpu_device.h"
#include "runtime/cpu/cpu_spec.h"
#include "runtime/cpu/linear_timer.h"
#include "tools/opt/command_line.h"
#include "tools/opt/load_graph.h"
#include "tools/tune/model_problems.h"

ABSL_FLAG(std::string, model, "",
          "whose layers are tuned: a model's name, a folder, a .gguf, or a graph (.ffir, .json)");
ABSL_FLAG(std::vector<std::string>, options, {}, "of --model: compile options as name=value,...: dtype=bf16");
ABSL_FLAG(std::vector<std::string>, tokens, (std::vector<std::string>{"1", "8", "128"}),
          "of --model: tokens of a step; up to 16 are sequences that decode, more are a prompt");
ABSL_FLAG(std::string, shapes, "",
          "problems to tune, separated by semicolons: linear/bf16/m=1,n=2304,k=768;fused_linear/f32/m=8,n=3072,k=768,"
          "gated");
ABSL_FLAG(std::string, device, "cpu",
          "cpu; with --dry-run also a100, h100, h200 or a device spec like those in compiler/analysis/data");
ABSL_FLAG(int, threads, 0, "of the CPU; 0: one a core. Tuning is kept for each number of threads by itself");
ABSL_FLAG(std::string, tactics, "ours", "ours, or all: other providers' kernels too, where they are to be had");
ABSL_FLAG(std::string, database, "", "where results are kept; default: tuning.json in the user's cache folder");
ABSL_FLAG(double, budget, 120, "seconds of measuring, for all problems together");
ABSL_FLAG(bool, dry_run, false, "run nothing: print what would be run, and why the rest would not");
ABSL_FLAG(bool, force, false, "tune also what the database has");
ABSL_FLAG(bool, json, false, "print one JSON object");

namespace flashflow::tools {
namespace {

using kernels::Candidates;
using kernels::DeviceLimits;
using kernels::Problem;
using nlohmann::ordered_json;
using runtime::TuneResult;
using runtime::TuningDatabase;
using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

bool Quiet() { return absl::GetFlag(FLAGS_json); }

absl::StatusOr<std::vector<Problem>> FindProblems(const std::string& exporter) {
  const std::string model = absl::GetFlag(FLAGS_model), shapes = absl::GetFlag(FLAGS_shapes);
  if (model.empty() == shapes.empty()) {
    return absl::InvalidArgumentError("give either --model or --shapes (--help for more)");
  }
  std::vector<Problem> problems;
  if (!shapes.empty()) {
    for (std::string_view text : absl::StrSplit(shapes, ';', absl::SkipWhitespace())) {
      FF_ASSIGN_OR_RETURN(Problem problem, kernels::ParseProblem(absl::StripAsciiWhitespace(text)));
      problems.push_back(std::move(problem));
    }
    return problems;
  }
  std::vector<int64_t> tokens;
  for (const std::string& text : absl::GetFlag(FLAGS_tokens)) {
    int64_t count;
    if (!absl::SimpleAtoi(text, &count)) {
      return absl::InvalidArgumentError(absl::StrCat("--tokens: \"", text, "\" is no number"));
    }
    tokens.push_back(count);
  }
  FF_ASSIGN_OR_RETURN(const std::unique_ptr<ir::Graph> graph, LoadGraph(model, exporter));
  FF_ASSIGN_OR_RETURN(const passes::CompileOptions options, ParseOptions(absl::GetFlag(FLAGS_options)));
  FF_ASSIGN_OR_RETURN(const driver::CompiledModel compiled, driver::Compile(*graph, options));
  return ProblemsOfPlan(compiled.plan, tokens);
}

absl::StatusOr<DeviceLimits> FindDevice() {
  const std::string device = absl::GetFlag(FLAGS_device);
  if (device == "cpu") {
    FF_ASSIGN_OR_RETURN(const int threads, runtime::ThreadCount(absl::GetFlag(FLAGS_threads)));
    return kernels::CpuLimits(runtime::CpuName(threads));
  }
  if (device == "cuda" || !absl::GetFlag(FLAGS_dry_run)) {
    return absl::FailedPreconditionError(
        absl::StrCat("--device ", device,
                     ": this build times kernels on the CPU only; --dry-run --device h200 shows "
                     "what a GPU's kernels could run"));
  }
  FF_ASSIGN_OR_RETURN(const analysis::DeviceSpec spec, runtime::FindDeviceSpec(device, {}));
  return kernels::CudaLimits(spec.name, spec.arch, spec.sm_count);
}

std::string DatabasePath() {
  if (const std::string path = absl::GetFlag(FLAGS_database); !path.empty()) return path;
  const std::string folder = runtime::UserCacheFolder();
  return folder.empty() ? "" : absl::StrCat(folder, "/tuning.json");
}

// Refusals of one reason are counted rather than repeated.
void PrintCandidates(const Problem& problem, const Candidates& found) {
  std::printf("%s: %zu to run, %zu refused\n", kernels::ProblemToText(problem).c_str(), found.tactics.size(),
              found.refused.size());
  constexpr size_t kMost = 8;
  for (size_t i = 0; i < found.tactics.size() && i < kMost; ++i) {
    std::printf("  %s\n", kernels::TacticToText(found.tactics[i]).c_str());
  }
  if (found.tactics.size() > kMost) std::printf("  and %zu more\n", found.tactics.size() - kMost);
  std::vector<std::pair<std::string, std::vector<std::string>>> reasons;
  for (const kernels::RefusedTactic& refused : found.refused) {
    auto row = std::ranges::find(reasons, refused.reason, &decltype(reasons)::value_type::first);
    if (row == reasons.end()) row = reasons.insert(reasons.end(), {refused.reason, {}});
    row->second.push_back(refused.tactic);
  }
  for (const auto& [reason, tactics] : reasons) {
    std::printf("  refused: %s%s: %s\n", tactics[0].c_str(),
                tactics.size() > 1 ? absl::StrCat(" and ", tactics.size() - 1, " more").c_str() : "", reason.c_str());
  }
}

ordered_json CandidatesToJson(const Problem& problem, const Candidates& found) {
  ordered_json tactics = ordered_json::array(), refused = ordered_json::array();
  for (const kernels::Tactic& tactic : found.tactics) tactics.push_back(kernels::TacticToText(tactic));
  for (const kernels::RefusedTactic& one : found.refused) {
    refused.push_back({{"tactic", one.tactic}, {"reason", one.reason}});
  }
  return {{"problem", kernels::ProblemToText(problem)}, {"candidates", tactics}, {"refused", refused}};
}

// The key under which a problem's result is kept: of the kernel that comes first.
absl::StatusOr<runtime::TuningKey> KeyOf(const Problem& problem, const DeviceLimits& device, const Candidates& found) {
  if (found.tactics.empty()) {
    return kernels::ChooseTactic(problem, device, kernels::TacticsFilter::kOurs, {}, nullptr).status();
  }
  return runtime::KeyOf(*found.tactics[0].spec, problem, device.name);
}

runtime::TuningRecord RecordOf(const kernels::Tactic& best, const TuneResult& result, double floor_us) {
  runtime::TuningRecord record = {.config = {},
                                  .us = result.best_us,
                                  .default_us = result.default_us,
                                  .floor_us = floor_us,
                                  .samples = result.times[result.best].samples,
                                  .source = "measured"};
  for (size_t i = 0; i < best.config.size(); ++i) {
    const kernels::Parameter& parameter = best.spec->parameters[i];
    if (best.config[i] != parameter.default_value) record.config[std::string(parameter.name)] = best.config[i];
  }
  return record;
}

ordered_json ResultToJson(const Problem& problem, const Candidates& found, const TuneResult& result, double floor_us) {
  return {{"problem", kernels::ProblemToText(problem)},
          {"candidates", found.tactics.size()},
          {"refused", found.refused.size()},
          {"tactic", kernels::TacticToText(found.tactics[result.best])},
          {"us", result.best_us},
          {"default_us", result.default_us},
          {"ratio", result.ratio},
          {"floor_us", floor_us},
          {"rounds", result.rounds},
          {"stop", runtime::TuneStopName(result.stop)}};
}

struct Outcome {
  int tuned = 0, gained = 0, known = 0, left = 0;
};

// Tunes problem after problem and keeps each result at once: a run that is cut off goes on where it was.
absl::Status TuneAll(const std::vector<Problem>& problems, const DeviceLimits& device,
                     const kernels::TacticsFilter filter, const std::string& path, ordered_json* results) {
  FF_ASSIGN_OR_RETURN(const analysis::DeviceSpec spec, runtime::CpuSpec({.threads = absl::GetFlag(FLAGS_threads)}));
  const TuningDatabase known = TuningDatabase::Load(path);
  FF_ASSIGN_OR_RETURN(const std::unique_ptr<runtime::TimingMemory> memory,
                      runtime::TimingMemory::Create(absl::GetFlag(FLAGS_threads)));
  const double budget_s = absl::GetFlag(FLAGS_budget);
  const auto start = Clock::now();
  Outcome outcome;
  for (size_t i = 0; i < problems.size(); ++i) {
    const Problem& problem = problems[i];
    const std::string text = kernels::ProblemToText(problem);
    FF_ASSIGN_OR_RETURN(const Candidates found, kernels::FindCandidates(problem, device, filter, {}));
    FF_ASSIGN_OR_RETURN(const runtime::TuningKey key, KeyOf(problem, device, found));
    if (!absl::GetFlag(FLAGS_force) && known.Find(key) != nullptr) {
      ++outcome.known;
      continue;
    }
    const double left_s = budget_s - SecondsSince(start);
    if (left_s <= 0) {
      ++outcome.left;
      continue;
    }
    FF_ASSIGN_OR_RETURN(const std::unique_ptr<runtime::Timer> timer, runtime::CreateLinearTimer(problem, memory.get()));
    const kernels::ProblemCost cost = kernels::CostOfProblem(problem, DType::kF32);
    runtime::TuneOptions options;
    options.budget_s = left_s / static_cast<double>(problems.size() - i);
    options.floor_us =
        std::max(cost.bytes / (spec.read_gb_per_s * 1e3), cost.flops / analysis::FlopPerS(spec, problem.dtype) * 1e6);
    if (!Quiet()) {
      std::fprintf(stderr, "[%zu/%zu] %s: %zu candidates\n", i + 1, problems.size(), text.c_str(),
                   found.tactics.size());
      options.progress = [&found](const runtime::TuneProgress& progress) {
        std::fprintf(stderr, "  round %2d: %4zu running, best %.1f us, %s\n", progress.round, progress.running,
                     progress.best_us, kernels::TacticToText(found.tactics[progress.best]).c_str());
      };
    }
    FF_ASSIGN_OR_RETURN(const TuneResult result, runtime::Autotune(found.tactics, options, timer.get()));
    if (result.stop == runtime::TuneStop::kBudget) {
      // Not kept: the default was not beaten, but it was not confirmed either.
      ++outcome.left;
    } else {
      TuningDatabase one;
      one.Put(key, RecordOf(found.tactics[result.best], result, options.floor_us));
      FF_RETURN_IF_ERROR(TuningDatabase::Merge(path, one));
      ++outcome.tuned;
      outcome.gained += result.best != 0 ? 1 : 0;
    }
    results->push_back(ResultToJson(problem, found, result, options.floor_us));
    if (!Quiet()) {
      std::printf("%-52s %9.1f us  floor %8.1f  default %9.1f  %.3f of it  %s (%s)\n", text.c_str(), result.best_us,
                  options.floor_us, result.default_us, result.ratio,
                  result.best == 0 ? "the default" : kernels::TacticToText(found.tactics[result.best]).c_str(),
                  std::string(runtime::TuneStopName(result.stop)).c_str());
      std::fflush(stdout);
    }
  }
  if (!Quiet()) {
    std::fprintf(stderr, "%d tuned, %d of them faster than the default; %d known already; %d left for want of time\n",
                 outcome.tuned, outcome.gained, outcome.known, outcome.left);
    std::fprintf(stderr, "%s\n", path.c_str());
  }
  return absl::OkStatus();
}

absl::Status Run(const std::vector<std::string>& arguments, const std::string& exporter) {
  if (!arguments.empty()) return absl::InvalidArgumentError(absl::StrCat("what is \"", arguments[0], "\"?"));
  if (!(absl::GetFlag(FLAGS_budget) > 0)) return absl::InvalidArgumentError("--budget must be above 0");
  FF_ASSIGN_OR_RETURN(const kernels::TacticsFilter filter, kernels::ParseTacticsFilter(absl::GetFlag(FLAGS_tactics)));
  FF_ASSIGN_OR_RETURN(const DeviceLimits device, FindDevice());
  FF_ASSIGN_OR_RETURN(const std::vector<Problem> problems, FindProblems(exporter));
  ordered_json results = ordered_json::array();
  const std::string path = DatabasePath();
  if (absl::GetFlag(FLAGS_dry_run)) {
    for (const Problem& problem : problems) {
      FF_ASSIGN_OR_RETURN(const Candidates found, kernels::FindCandidates(problem, device, filter, {}));
      results.push_back(CandidatesToJson(problem, found));
      if (!Quiet()) PrintCandidates(problem, found);
    }
  } else {
    if (path.empty()) return absl::FailedPreconditionError("there is no home folder; give --database");
    FF_RETURN_IF_ERROR(TuneAll(problems, device, filter, path, &results));
  }
  if (Quiet()) {
    const ordered_json all = {{"device", device.name}, {"database", path}, {"problems", results}};
    std::puts(all.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace flashflow::tools

int main(int argc, char** argv) {
  return flashflow::tools::RunGraphTool(
      "tune",
      "finds the fastest configuration of each kernel for the sizes of a model on this machine.\n\n"
      "  tune --model GRAPH [--options dtype=bf16] [--tokens 1,8,128] [--budget 120]\n"
      "  tune --shapes 'linear/bf16/m=1,n=2304,k=768' --database my.json\n"
      "  tune --model GRAPH --dry-run             what would be run, and why the rest would not\n"
      "  tune --shapes ... --dry-run --device h200\n\n"
      "Engines find the results by themselves the next time they are opened. Problems that the database has are\n"
      "skipped (--force tunes them again), so that a run that was cut off goes on where it was.",
      argc, argv, flashflow::tools::Run);
}
