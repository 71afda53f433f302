// reduce: minimizes a graph on which the passes or the compiler fail.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "compiler/driver/compile.h"
#include "compiler/ir/graph.h"
#include "compiler/ir/printer.h"
#include "compiler/ir/status_macros.h"
#include "compiler/passes/options.h"
#include "compiler/passes/pass_manager.h"
#include "compiler/passes/pipeline.h"
#include "compiler/proof/prover.h"
#include "compiler/proof/shrink.h"
#include "tools/opt/command_line.h"
#include "tools/opt/load_graph.h"

ABSL_FLAG(std::vector<std::string>, passes, {}, "passes that fail, in this order; default: the whole pipeline");
ABSL_FLAG(std::vector<std::string>, options, {}, "compile options as name=value,...: dtype=bf16,page_size=16");
ABSL_FLAG(std::string, message, "",
          "the failure is an error that contains this text: of the passes if --passes is "
          "given, else of the whole compiler. Default: the failure is that --verify-each "
          "of opt finds a broken relation, or that a pass gives an error");
ABSL_FLAG(std::string, o, "-", "where the small graph goes, as .ffir; - is the standard output");
ABSL_FLAG(int, attempts, 4000, "graphs to try at most");
ABSL_FLAG(int, cases, 3, "shapes and values in which each region is evaluated");
ABSL_FLAG(uint64_t, seed, 1, "of the random values");

namespace flashflow::tools {
namespace {

absl::StatusOr<std::vector<std::unique_ptr<passes::Pass>>> SelectPasses() {
  const std::vector<std::string> names = absl::GetFlag(FLAGS_passes);
  if (names.empty()) return passes::StepPipeline();
  return passes::MakePasses(names);
}

// How a graph fails: empty if it does not. Failures of one kind in one pass are alike.
class Failure {
 public:
  static absl::StatusOr<Failure> FromFlags() {
    Failure failure;
    FF_ASSIGN_OR_RETURN(failure.passes_, SelectPasses());
    FF_ASSIGN_OR_RETURN(failure.options_, ParseOptions(absl::GetFlag(FLAGS_options)));
    failure.message_ = absl::GetFlag(FLAGS_message);
    return failure;
  }

  std::string Of(const ir::Graph& graph) const { return message_.empty() ? OfProof(graph) : OfMessage(graph); }

  // From now on the comparison of whole graphs is left out, where a pass alone is found broken.
  void set_whole(bool whole) { whole_ = whole; }

 private:
  std::string OfMessage(const ir::Graph& graph) const {
    absl::Status status;
    if (absl::GetFlag(FLAGS_passes).empty()) {
      status = driver::Compile(graph, options_).status();
    } else {
      const auto clone = graph.Clone();
      for (const auto& pass : passes_) {
        passes::PassContext context(pass->name(), options_);
        status.Update(passes::RunPass(*pass, clone.get(), &context).status());
        if (!status.ok()) break;
      }
    }
    return absl::StrContains(status.message(), message_) ? absl::StrCat("an error with \"", message_, "\"") : "";
  }

  std::string OfProof(const ir::Graph& graph) const {
    const auto clone = graph.Clone();
    proof::Prover prover(options_,
                         {.cases = absl::GetFlag(FLAGS_cases), .seed = absl::GetFlag(FLAGS_seed), .whole = whole_});
    const absl::StatusOr<proof::ProofReport> report = prover.Prove(passes_, clone.get());
    if (!report.ok()) {  // "pass NAME: ..." is alike by the name
      const std::string_view message = report.status().message();
      return absl::StrCat("error: ", message.substr(0, message.find(':')));
    }
    if (!report->violation.has_value()) return "";
    return report->violation->pass.empty() ? "the whole graph differs"
                                           : absl::StrCat(report->violation->pass, " breaks its relation");
  }

  std::vector<std::unique_ptr<passes::Pass>> passes_;
  passes::CompileOptions options_;
  std::string message_;
  bool whole_ = true;
};

absl::Status Run(const std::vector<std::string>& arguments, const std::string& exporter) {
  if (arguments.size() != 1) {
    return absl::InvalidArgumentError("give one graph or model: reduce in.ffir (--help for more)");
  }
  FF_ASSIGN_OR_RETURN(Failure failure, Failure::FromFlags());
  FF_ASSIGN_OR_RETURN(const std::unique_ptr<ir::Graph> graph, LoadGraph(arguments[0], exporter));
  std::fprintf(stderr, "%zu nodes: looking for the failure\n", graph->nodes().size());  // a minute for a whole model
  const std::string wanted = failure.Of(*graph);
  if (wanted.empty()) {
    return absl::FailedPreconditionError(
        "the graph does not fail: nothing to reduce; --passes, --options, --message and --seed say what a failure is");
  }
  std::fprintf(stderr, "%s\n", wanted.c_str());
  failure.set_whole(absl::StrContains(wanted, "whole"));
  int attempts = 0;
  const auto fails = [&](const ir::Graph& candidate) {
    ++attempts;
    return failure.Of(candidate) == wanted;
  };
  const auto small = proof::Shrink(*graph, fails, {.max_attempts = absl::GetFlag(FLAGS_attempts)});
  std::fprintf(stderr, "%zu nodes left after %d attempts\n", small->nodes().size(), attempts);
  return WriteFile(absl::GetFlag(FLAGS_o), ir::Print(*small));
}

}  // namespace
}  // namespace flashflow::tools

int main(int argc, char** argv) {
  return flashflow::tools::RunGraphTool("reduce",
                                        "minimizes a graph on which passes or the compiler fail.\n\n"
                                        "  reduce GRAPH [--passes a,b] [--message TEXT] [-o FILE]",
                                        argc, argv, flashflow::tools::Run);
}
