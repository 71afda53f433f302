// tune: finds the fastest configuration of each kernel for the sizes of a model on this machine, and keeps it.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
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
#include "runtime/cuda/gpu_tuning.h"
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
ABSL_FLAG(
    std::string, device, "cpu",
    "cpu, or cuda: this machine's GPU, of which it takes --shapes alone; with --dry-run also a100, h100, h200 or a "
    "device spec like those in compiler/analysis/data");
ABSL_FLAG(int, threads, 0, "of the CPU; 0: one a core. Tuning is kept for each number of threads by itself");
ABSL_FLAG(int64_t, memory_mib, 1024,
          "memory whose layers take turns, so that each run finds its weights in no cache: more than the caches hold");
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

// What problems are timed on. A dry run has the limits alone.
struct Bench {
  DeviceLimits limits;
  std::optional<analysis::DeviceSpec> spec;  // nullopt: no floor is known
  DType activations = DType::kF32;
  std::unique_ptr<runtime::TimingMemory> cpu;
  std::unique_ptr<runtime::GpuTuning> gpu;

  absl::StatusOr<std::unique_ptr<runtime::Timer>> CreateTimer(const Problem& problem) const {
    return gpu != nullptr ? gpu->CreateTimer(problem) : runtime::CreateLinearTimer(problem, cpu.get());
  }
  double FloorUs(const Problem& problem) const {
    if (!spec.has_value()) return 0;
    const kernels::ProblemCost cost = kernels::CostOfProblem(problem, activations);
    return std::max(cost.bytes / (spec->read_gb_per_s * 1e3),
                    cost.flops / analysis::FlopPerS(*spec, problem.dtype) * 1e6);
  }
};

// A GPU is called as its device spec where there is one.
absl::Status OpenGpu(Bench* bench) {
  FF_ASSIGN_OR_RETURN(bench->gpu, runtime::GpuTuning::Open(absl::GetFlag(FLAGS_memory_mib) << 20));
  const runtime::GpuFacts& facts = bench->gpu->facts();
  if (const std::string_view name = analysis::BuiltinSpecOfGpu(facts.name); !name.empty()) {
    FF_ASSIGN_OR_RETURN(bench->spec, analysis::BuiltinDeviceSpec(name));
  }
  bench->activations = DType::kBF16;
  FF_ASSIGN_OR_RETURN(bench->limits, kernels::CudaLimits(bench->spec.has_value() ? bench->spec->name : facts.name,
                                                         facts.arch, facts.sm_count));
  return absl::OkStatus();
}

absl::StatusOr<Bench> OpenBench() {
  const std::string device = absl::GetFlag(FLAGS_device);
  Bench bench;
  if (device == "cpu") {
    FF_ASSIGN_OR_RETURN(const int threads, runtime::ThreadCount(absl::GetFlag(FLAGS_threads)));
    bench.limits = kernels::CpuLimits(runtime::CpuName(threads));
  } else if (device == "cuda") {
    if (!absl::GetFlag(FLAGS_model).empty()) {
      return absl::InvalidArgumentError("--device cuda takes --shapes: the runtime makes no plans for GPUs");
    }
    FF_RETURN_IF_ERROR(OpenGpu(&bench));
  } else if (absl::GetFlag(FLAGS_dry_run)) {
    FF_ASSIGN_OR_RETURN(const analysis::DeviceSpec spec, runtime::FindDeviceSpec(device, {}));
    FF_ASSIGN_OR_RETURN(bench.limits, kernels::CudaLimits(spec.name, spec.arch, spec.sm_count));
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("--device ", device, ": what runs here is cpu or cuda; others can be looked at with --dry-run"));
  }
  return bench;
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

// One kernel for one problem.
struct Job {
  Problem problem;
  std::vector<kernels::Tactic> tactics;
  runtime::TuningKey key;
};

runtime::TuningRecord RecordOf(const kernels::Tactic& best, const TuneResult& result, double floor_us) {
  runtime::TuningRecord record = {.config = {},
                                  .us = result.best_us,
                                  .default_us = result.default_us,
                                  .floor_us = floor_us,
                                  .samples = result.times[result.best].samples,
                                  .source = "measured"};
  for (size_t i = 0; i < best.config.size(); ++i) {
    const kernels::Parameter& parameter = best.spec->parameters[i];
    // Of a kernel that chooses by a model no value is the default.
    if (best.spec->cost != nullptr || best.config[i] != parameter.default_value)
      record.config[std::string(parameter.name)] = best.config[i];
  }
  return record;
}

ordered_json ResultToJson(const Job& job, const TuneResult& result, double floor_us) {
  return {{"problem", kernels::ProblemToText(job.problem)},
          {"candidates", job.tactics.size()},
          {"tactic", kernels::TacticToText(job.tactics[result.best])},
          {"default", kernels::TacticToText(job.tactics[0])},
          {"us", result.best_us},
          {"default_us", result.default_us},
          {"ratio", result.ratio},
          {"floor_us", floor_us},
          {"rounds", result.rounds},
          {"stop", runtime::TuneStopName(result.stop)}};
}

// What there is to do, before anything is measured: a job for each kernel that has something to choose.
absl::StatusOr<std::vector<Job>> FindJobs(const std::vector<Problem>& problems, const DeviceLimits& device,
                                          kernels::TacticsFilter filter) {
  std::vector<Job> jobs;
  for (const Problem& problem : problems) {
    FF_ASSIGN_OR_RETURN(const Candidates found, kernels::FindCandidates(problem, device, filter, {}));
    if (found.tactics.empty()) {  // says why
      return kernels::ChooseTactic(problem, device, filter, {}, nullptr).status();
    }
    const size_t before = jobs.size();
    for (const kernels::Tactic& tactic : found.tactics) {
      if (tactic.spec->parameters.empty()) continue;
      if (jobs.size() == before || jobs.back().tactics[0].spec != tactic.spec) {
        jobs.push_back({problem, {}, runtime::KeyOf(*tactic.spec, problem, device.name)});
      }
      jobs.back().tactics.push_back(tactic);
    }
    if (jobs.size() == before && !Quiet()) {
      std::fprintf(stderr, "%s: %s has nothing to choose\n", kernels::ProblemToText(problem).c_str(),
                   kernels::TacticToText(found.tactics[0]).c_str());
    }
  }
  return jobs;
}

// Measures or allocates what the timers share.
absl::Status PrepareBench(Bench* bench) {
  if (bench->gpu != nullptr) return absl::OkStatus();
  const int threads = absl::GetFlag(FLAGS_threads);
  FF_ASSIGN_OR_RETURN(bench->spec, runtime::CpuSpec({.threads = threads}));
  FF_ASSIGN_OR_RETURN(bench->cpu, runtime::TimingMemory::Create(threads, absl::GetFlag(FLAGS_memory_mib) << 20));
  return absl::OkStatus();
}

struct Outcome {
  int tuned = 0, gained = 0, known = 0, left = 0;
};

void PrintResult(const Job& job, const TuneResult& result, double floor_us) {
  std::printf("%-52s %9.1f us  floor %8.1f  default %9.1f  %.3f of it  %s (%s)\n",
              kernels::ProblemToText(job.problem).c_str(), result.best_us, floor_us, result.default_us, result.ratio,
              kernels::TacticToText(job.tactics[result.best]).c_str(),
              std::string(runtime::TuneStopName(result.stop)).c_str());
  std::fflush(stdout);
}

// Tunes job after job and keeps each result at once: a run that is cut off goes on where it was.
absl::Status TuneAll(const std::vector<Job>& jobs, const Bench& bench, const std::string& path, ordered_json* results) {
  const TuningDatabase known = TuningDatabase::Load(path);
  const double budget_s = absl::GetFlag(FLAGS_budget);
  const auto start = Clock::now();
  Outcome outcome;
  for (size_t i = 0; i < jobs.size(); ++i) {
    const Job& job = jobs[i];
    if (!absl::GetFlag(FLAGS_force) && known.Find(job.key) != nullptr) {
      ++outcome.known;
      continue;
    }
    const double left_s = budget_s - SecondsSince(start);
    if (left_s <= 0) {
      ++outcome.left;
      continue;
    }
    FF_ASSIGN_OR_RETURN(const std::unique_ptr<runtime::Timer> timer, bench.CreateTimer(job.problem));
    runtime::TuneOptions options;
    options.budget_s = left_s / static_cast<double>(jobs.size() - i);
    options.floor_us = bench.FloorUs(job.problem);
    if (!Quiet()) {
      std::fprintf(stderr, "[%zu/%zu] %s: %zu candidates\n", i + 1, jobs.size(),
                   kernels::ProblemToText(job.problem).c_str(), job.tactics.size());
      options.progress = [&job](const runtime::TuneProgress& progress) {
        std::fprintf(stderr, "  round %2d: %4zu running, best %.1f us, %s\n", progress.round, progress.running,
                     progress.best_us, kernels::TacticToText(job.tactics[progress.best]).c_str());
      };
    }
    FF_ASSIGN_OR_RETURN(const TuneResult result, runtime::Autotune(job.tactics, options, timer.get()));
    if (result.stop == runtime::TuneStop::kBudget) {
      ++outcome.left;  // not kept: nothing was confirmed
    } else {
      TuningDatabase one;
      one.Put(job.key, RecordOf(job.tactics[result.best], result, options.floor_us));
      FF_RETURN_IF_ERROR(TuningDatabase::Merge(path, one));
      ++outcome.tuned;
      outcome.gained += result.best != 0 ? 1 : 0;
    }
    results->push_back(ResultToJson(job, result, options.floor_us));
    if (!Quiet()) PrintResult(job, result, options.floor_us);
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
  if (const int64_t mib = absl::GetFlag(FLAGS_memory_mib); mib < 1 || mib > (1 << 20)) {
    return absl::InvalidArgumentError("--memory-mib must be 1 to 1048576");
  }
  if (!(absl::GetFlag(FLAGS_budget) > 0)) return absl::InvalidArgumentError("--budget must be above 0");
  FF_ASSIGN_OR_RETURN(const kernels::TacticsFilter filter, kernels::ParseTacticsFilter(absl::GetFlag(FLAGS_tactics)));
  FF_ASSIGN_OR_RETURN(Bench bench, OpenBench());
  FF_ASSIGN_OR_RETURN(const std::vector<Problem> problems, FindProblems(exporter));
  ordered_json results = ordered_json::array();
  const std::string path = DatabasePath();
  if (absl::GetFlag(FLAGS_dry_run)) {
    for (const Problem& problem : problems) {
      FF_ASSIGN_OR_RETURN(const Candidates found, kernels::FindCandidates(problem, bench.limits, filter, {}));
      results.push_back(CandidatesToJson(problem, found));
      if (!Quiet()) PrintCandidates(problem, found);
    }
  } else {
    if (path.empty()) return absl::FailedPreconditionError("there is no home folder; give --database");
    FF_ASSIGN_OR_RETURN(const std::vector<Job> jobs, FindJobs(problems, bench.limits, filter));
    FF_RETURN_IF_ERROR(PrepareBench(&bench));
    FF_RETURN_IF_ERROR(TuneAll(jobs, bench, path, &results));
  }
  if (Quiet()) {
    const ordered_json all = {{"device", bench.limits.name}, {"database", path}, {"problems", results}};
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
