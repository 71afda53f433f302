#include "compiler/ir/printer.h"

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace flashflow::ir {
namespace {

using Numbers = absl::flat_hash_map<const Value*, int>;

// A name that the parser reads without quotes: letters, digits, '_', '.', '-', starting with a letter or '_'.
std::string Name(std::string_view text) {
  const bool plain = !text.empty() && IsIdentifier(text.substr(0, 1)) &&
                     std::all_of(text.begin(), text.end(),
                                 [](char c) { return absl::ascii_isalnum(c) || c == '_' || c == '.' || c == '-'; });
  return plain ? std::string(text) : QuoteString(text);
}

std::string Ref(const Numbers& numbers, const Value* value) {
  return value == nullptr ? "_" : absl::StrCat("%", numbers.at(value));
}

std::string Attrs(const Node& node) {
  std::vector<std::string> parts;
  for (const auto& [name, value] : node.attrs()) {
    const auto& defs = node.def().attrs;
    auto def = std::find_if(defs.begin(), defs.end(), [&name = name](const AttrDef& d) { return d.name == name; });
    const bool is_default = def != defs.end() && def->default_value.has_value() && SameAttr(value, *def->default_value);
    if (!is_default) parts.push_back(absl::StrCat(name, " = ", AttrToString(value)));
  }
  return parts.empty() ? "" : absl::StrCat(" {", absl::StrJoin(parts, ", "), "}");
}

std::string Results(const Numbers& numbers, const Node& node) {
  return absl::StrJoin(node.results(), ", ",
                       [&](std::string* out, const Value* value) { out->append(Ref(numbers, value)); });
}

std::string NodeLine(const Numbers& numbers, const Node& node) {
  const std::string operands = absl::StrJoin(
      node.operands(), ", ", [&](std::string* out, const Value* value) { out->append(Ref(numbers, value)); });
  const std::string types = absl::StrJoin(
      node.results(), ", ", [](std::string* out, const Value* value) { out->append(value->type().ToString()); });
  std::string line =
      absl::StrCat(Results(numbers, node), " = ", OpName(node.op()), "(", operands, ")", Attrs(node), " : ", types);
  if (!node.loc().empty()) absl::StrAppend(&line, " loc ", QuoteString(node.loc()));
  return line;
}

}  // namespace

std::string Print(const Graph& graph) {
  const Numbers numbers = NumberValues(graph);
  std::string text = absl::StrCat("ffir 1\ngraph @", Name(graph.name()), " {\n");
  for (const auto& [name, range] : graph.symbols()) {
    absl::StrAppend(&text, "  symbol ", name, " [", range.min, ", ", range.max, "]\n");
  }
  for (const auto& [name, value] : graph.metadata()) {
    absl::StrAppend(&text, "  metadata ", Name(name), " = ", AttrToString(value), "\n");
  }
  for (const Value* input : graph.inputs()) {
    absl::StrAppend(&text, "  input ", Ref(numbers, input), " ", QuoteString(input->name()), " : ",
                    input->type().ToString(), "\n");
  }
  for (const Value* weight : graph.weights()) {
    absl::StrAppend(&text, "  weight ", Ref(numbers, weight), " ", QuoteString(weight->name()), " : ",
                    weight->type().ToString(), "\n");
  }
  for (const auto& node : graph.nodes()) absl::StrAppend(&text, "  ", NodeLine(numbers, *node), "\n");
  for (const Output& output : graph.outputs()) {
    absl::StrAppend(&text, "  output ", QuoteString(output.name), " ", Ref(numbers, output.value), "\n");
  }
  return absl::StrCat(text, "}\n");
}

std::string Describe(const Graph& graph, const Node& node) {
  std::string text = absl::StrCat(Results(NumberValues(graph), node), " = ", OpName(node.op()));
  if (!node.loc().empty()) absl::StrAppend(&text, " at ", QuoteString(node.loc()));
  return text;
}

}  // namespace flashflow::ir
