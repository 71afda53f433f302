// graph.json: what the Python exporter writes of a PyTorch module, as plain structs.
//
// ParseGraphJson checks the form alone: every key, kind, dtype and dim expression, that ids are unique and that every
// reference names something defined before it. What the nodes mean is for the lowerings (lowering.h).
#ifndef COMPILER_FRONTEND_GRAPH_JSON_H_
#define COMPILER_FRONTEND_GRAPH_JSON_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "compiler/ir/attr.h"
#include "compiler/ir/type.h"

namespace flashflow::frontend {

inline constexpr int kGraphJsonVersion = 1;

struct Ref {
  std::string id;
};
// An argument that has no other encoding: its text, for messages.
struct Opaque {
  std::string text;
};

struct Arg {
  // null, {"ref": id}, int, float or {"float": "inf"}, bool, string, {"dtype": "f32"}, {"dim": "B*S"},
  // {"other": text}, list
  std::variant<std::monostate, Ref, int64_t, double, bool, std::string, DType, DimExpr, Opaque, std::vector<Arg>> value;
};
std::string ArgToString(const Arg& arg);

struct JsonInput {
  std::string id;
  std::string name;
  ir::TensorType type;
};
struct JsonWeight {
  std::string id;
  std::string name;  // in the checkpoint; several ids with one name are one tied weight
  ir::TensorType type;
};
struct JsonNode {
  std::string id;
  std::string target;  // "aten.linear.default"
  std::vector<Arg> args;
  std::vector<std::pair<std::string, Arg>> kwargs;
  std::vector<ir::TensorType> results;
  std::string module;  // "layers.0.attn.q_proj", may be empty
  std::string source;  // "models/llama.py:88", may be empty
};
struct JsonOutput {
  std::string id;
  std::string name;
};

struct GraphJson {
  std::string name;
  AttrMap metadata;
  std::vector<std::pair<std::string, SymbolRange>> symbols;
  std::vector<JsonInput> inputs;
  std::vector<JsonWeight> weights;
  std::vector<JsonNode> nodes;
  std::vector<JsonOutput> outputs;
};

// InvalidArgument names the place in the file ("12:9: nodes[3].shape", line:column alone where it is no JSON), what was
// expected and what came.
absl::StatusOr<GraphJson> ParseGraphJson(std::string_view text);

}  // namespace flashflow::frontend

#endif  // COMPILER_FRONTEND_GRAPH_JSON_H_
