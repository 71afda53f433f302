#include "compiler/frontend/import_graph.h"

#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "compiler/frontend/graph_json.h"
#include "compiler/frontend/json_place.h"
#include "compiler/frontend/lowering.h"
#include "compiler/ir/status_macros.h"
#include "compiler/ir/verifier.h"

namespace flashflow::frontend {
namespace {

std::string Location(const JsonNode& node) {
  if (node.source.empty()) return node.module;
  return node.module.empty() ? node.source : absl::StrCat(node.module, " (", node.source, ")");
}

std::string PathOf(std::string_view list, size_t index) { return absl::StrCat(list, "[", index, "]"); }

absl::Status ErrorAt(std::string_view text, std::string_view path, std::string_view what) {
  const size_t offset = OffsetOf(text, path);
  return absl::InvalidArgumentError(absl::StrCat("graph.json: ", PlaceOf(text, offset), ": ", what));
}

std::string OfNode(const JsonNode& node, std::string_view what) {
  const std::string location = Location(node);
  return absl::StrCat("node \"", node.id, "\" (", node.target, ")", location.empty() ? "" : " at ", location, ": ",
                      what);
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
  for (size_t i = 0; i < json.symbols.size(); ++i) {
    const auto& [name, range] = json.symbols[i];
    const absl::Status declared = graph->DeclareSymbol(name, range);
    if (!declared.ok()) return ErrorAt(graph_json, PathOf("symbols", i), declared.message());
  }
  graph->metadata() = std::move(json.metadata);

  Environment environment;
  absl::flat_hash_map<const ir::Value*, std::string> paths;  // in the text, of what made each value
  for (size_t i = 0; i < json.inputs.size(); ++i) {
    JsonInput& input = json.inputs[i];
    if (graph->FindInput(input.name) != nullptr) {
      return ErrorAt(graph_json, PathOf("inputs", i), absl::StrCat("two inputs are named \"", input.name, "\""));
    }
    ir::Value* value = graph->AddInput(std::move(input.name), std::move(input.type));
    environment[input.id] = {value};
    paths[value] = PathOf("inputs", i);
  }
  absl::flat_hash_map<std::string, ir::Value*> weights;
  for (size_t i = 0; i < json.weights.size(); ++i) {
    const JsonWeight& weight = json.weights[i];
    ir::Value*& value = weights[weight.name];
    if (value == nullptr) {
      value = graph->AddWeight(weight.name, weight.type);
      paths[value] = PathOf("weights", i);
    } else if (value->tensor() != weight.type) {
      return ErrorAt(graph_json, PathOf("weights", i),
                     absl::StrCat("the tied weight \"", weight.name, "\" is declared as ", value->type().ToString(),
                                  " and as ", ir::Type(weight.type).ToString()));
    }
    environment[weight.id] = {value};
  }
  for (size_t i = 0; i < json.nodes.size(); ++i) {
    const JsonNode& node = json.nodes[i];
    absl::StatusOr<Values> values = Lower(node, environment, graph.get());
    const absl::Status status = values.ok() ? CheckDeclared(node, *values) : values.status();
    if (!status.ok()) return ErrorAt(graph_json, PathOf("nodes", i), OfNode(node, status.message()));
    for (const ir::Value* value : *values) paths.try_emplace(value, PathOf("nodes", i));
    environment[node.id] = *std::move(values);
  }
  for (size_t i = 0; i < json.outputs.size(); ++i) {
    JsonOutput& output = json.outputs[i];
    const Values& values = environment.at(output.id);
    if (values.size() != 1) {
      return ErrorAt(graph_json, PathOf("outputs", i),
                     absl::StrCat("output \"", output.name, "\" has several results"));
    }
    graph->AddOutput(std::move(output.name), values[0]);
  }
  ir::Culprit culprit;
  if (const absl::Status s = ir::Verify(*graph, &culprit); !s.ok()) {
    const auto path = paths.find(culprit.value);
    return ErrorAt(graph_json,
                   culprit.output >= 0   ? PathOf("outputs", static_cast<size_t>(culprit.output))
                   : path == paths.end() ? "nodes"
                                         : path->second,
                   s.message());
  }
  return graph;
}

}  // namespace flashflow::frontend
