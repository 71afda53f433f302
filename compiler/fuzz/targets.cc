#include "compiler/fuzz/targets.h"

#include <memory>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "compiler/frontend/import_graph.h"
#include "compiler/frontend/test_models.h"
#include "compiler/ir/graph.h"
#include "compiler/ir/parser.h"
#include "compiler/ir/printer.h"
#include "compiler/ir/status_macros.h"
#include "compiler/ir/verifier.h"
#include "compiler/passes/pass_manager.h"
#include "compiler/passes/pipeline.h"
#include "compiler/passes/random_decoder.h"
#include "compiler/proof/random_graph.h"

namespace flashflow::fuzz {
namespace {

absl::Status Broken(std::string_view promise, std::string_view what) {
  return absl::InternalError(absl::StrCat(promise, ": ", what));
}

// "12:3: ...", perhaps after the name of what was read.
bool SaysWhere(std::string_view message) {
  absl::ConsumePrefix(&message, "graph.json: ");
  size_t at = 0;
  for (int number = 0; number < 2; ++number) {
    const size_t first = at;
    while (at < message.size() && absl::ascii_isdigit(message[at])) ++at;
    if (at == first || at == message.size() || message[at++] != ':') return false;
  }
  return true;
}

absl::Status CheckGraph(const ir::Graph& graph) {
  if (const absl::Status s = ir::Verify(graph); !s.ok()) return Broken("an accepted graph is valid", s.message());
  const std::string text = ir::Print(graph);
  const auto again = ir::Parse(text);
  if (!again.ok()) return Broken("a printed graph parses", absl::StrCat(again.status().message(), "\n", text));
  if (!StructurallyEqual(graph, **again)) return Broken("a printed graph parses to itself", text);
  return absl::OkStatus();
}

absl::StatusOr<Outcome> RunParser(std::string_view text) {
  const auto graph = ir::Parse(text);
  if (graph.ok()) {
    FF_RETURN_IF_ERROR(CheckGraph(**graph));
    return Outcome::kAccepted;
  }
  if (!absl::IsInvalidArgument(graph.status()) || !SaysWhere(graph.status().message())) {
    return Broken("an error says where", graph.status().ToString());
  }
  return Outcome::kRefused;
}

absl::StatusOr<Outcome> RunImporter(std::string_view text) {
  const auto graph = frontend::ImportGraph(text);
  if (graph.ok()) {
    FF_RETURN_IF_ERROR(CheckGraph(**graph));
    return Outcome::kAccepted;
  }
  if (!absl::IsInvalidArgument(graph.status()) || !SaysWhere(graph.status().message())) {
    return Broken("an error says where", graph.status().ToString());
  }
  return Outcome::kRefused;
}

absl::StatusOr<Outcome> RunPasses(std::string_view text) {
  const auto graph = ir::Parse(text);
  if (!graph.ok()) return Outcome::kRefused;
  const auto records = passes::PassManager(passes::StepPipeline()).Run(graph->get(), {});
  if (records.ok()) return Outcome::kAccepted;
  if (absl::IsInternal(records.status())) return Broken("passes leave valid graphs", records.status().message());
  return Outcome::kRefused;
}

std::vector<std::string> Graphs() {
  std::vector<std::string> texts;
  for (uint32_t seed = 0; seed < 8; ++seed) {
    texts.push_back(ir::Print(*proof::RandomGraph(seed)));
    const auto decoder = passes::RandomDecoder(seed);
    texts.push_back(ir::Print(*decoder));
    if (passes::PassManager(passes::StepPipeline()).Run(decoder.get(), {}).ok()) texts.push_back(ir::Print(*decoder));
  }
  return texts;
}

std::vector<std::string> Models() {
  return {frontend::Gpt2Json({.layers = 1}), frontend::LlamaJson({.layers = 1, .kv_heads = 2})};
}

constexpr Target kTargets[] = {
    {"parser", "reads .ffir", RunParser, Graphs},
    {"importer", "reads graph.json", RunImporter, Models},
    {"passes", "runs the step pipeline over .ffir", RunPasses, Graphs},
};

}  // namespace

absl::Span<const Target> Targets() { return kTargets; }

}  // namespace flashflow::fuzz
