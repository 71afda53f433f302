#include "compiler/frontend/import_graph.h"

#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "compiler/frontend/graph_json.h"
#include "compiler/frontend/lowering.h"
#include "compiler/ir/status_macros.h"
#include "compiler/ir/verifier.h"

namespace flashflow::frontend {
namespace {

std::string Location(const JsonNode& node) {
  if (node.source.empty()) return node.module;
  return node.module.empty() ? node.source : absl::StrCat(node.module, " (", node.source, ")");
}

absl::Status NodeError(const JsonNode& node, std::string_view what) {
  const std::string location = Location(node);
  return absl::InvalidArgumentError(
      absl::StrCat("node \"", node.id, "\" (", node.target, ")", location.empty() ? "" : " at ", location, ": ", what));
}

// results[index] of an earlier node.
absl::StatusOr<Values> GetItem(const JsonNode& node, const Environment& environment) {
  const Ref* ref = node.args.size() == 2 && node.kwargs.empty() ? std::get_if<Ref>(&node.args[0].value) : nullptr;
  const auto* index = ref != nullptr ? std::get_if<int64_t>(&node.args[1].value) : nullptr;
  if (index == nullptr) return absl::InvalidArgumentError("expected a reference and an index as arguments");
  const Values& values = environment.at(ref->id);
  if (*index < 0 || *index >= static_cast<int64_t>(values.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", ref->id, "\" has ", values.size(), " results, not one at ", *index));
  }
  return Values{values[*index]};
}

absl::StatusOr<Values> Lower(const JsonNode& node, const Environment& environment, ir::Graph* graph) {
  if (node.target == "getitem") return GetItem(node, environment);
  const TargetRow* row = FindTarget(node.target);
  if (row == nullptr) {
    return absl::InvalidArgumentError(
        "this operation is not supported. Write it with supported ones in the model, or decompose it before exporting; "
        "docs/frontend.md lists them all");
  }
  FF_ASSIGN_OR_RETURN(const Call call, Call::Bind(node, row->parameters, environment, Location(node), graph));
  return row->lower(call);
}

absl::Status CheckDeclared(const JsonNode& node, const Values& values) {
  if (values.size() != node.results.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("declares ", node.results.size(), " results, but has ", values.size()));
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i]->tensor() == node.results[i]) continue;
    return absl::InvalidArgumentError(absl::StrCat("declares ", ir::Type(node.results[i]).ToString(),
                                                   ", but its operands give ", values[i]->type().ToString()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ir::Graph>> ImportGraph(std::string_view graph_json) {
  FF_ASSIGN_OR_RETURN(GraphJson json, ParseGraphJson(graph_json));
  auto graph = std::make_unique<ir::Graph>(json.name);
  for (const auto& [name, range] : json.symbols) FF_RETURN_IF_ERROR(graph->DeclareSymbol(name, range));
  graph->metadata() = std::move(json.metadata);

  Environment environment;
  for (JsonInput& input : json.inputs) {
    if (graph->FindInput(input.name) != nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("graph.json: two inputs are named \"", input.name, "\""));
    }
    environment[input.id] = {graph->AddInput(std::move(input.name), std::move(input.type))};
  }
  absl::flat_hash_map<std::string, ir::Value*> weights;
  for (JsonWeight& weight : json.weights) {
    ir::Value*& value = weights[weight.name];
    if (value == nullptr) {
      value = graph->AddWeight(weight.name, weight.type);
    } else if (value->tensor() != weight.type) {
      return absl::InvalidArgumentError(absl::StrCat("graph.json: the tied weight \"", weight.name,
                                                     "\" is declared as ", value->type().ToString(), " and as ",
                                                     ir::Type(weight.type).ToString()));
    }
    environment[weight.id] = {value};
  }
  for (const JsonNode& node : json.nodes) {
    absl::StatusOr<Values> values = Lower(node, environment, graph.get());
    if (!values.ok()) return NodeError(node, values.status().message());
    if (absl::Status s = CheckDeclared(node, *values); !s.ok()) return NodeError(node, s.message());
    environment[node.id] = *std::move(values);
  }
  for (JsonOutput& output : json.outputs) {
    const Values& values = environment.at(output.id);
    if (values.size() != 1) {
      return absl::InvalidArgumentError(absl::StrCat("graph.json: output \"", output.name, "\" has several results"));
    }
    graph->AddOutput(std::move(output.name), values[0]);
  }
  FF_RETURN_IF_ERROR(ir::Verify(*graph));
  return graph;
}

}  // namespace flashflow::frontend
