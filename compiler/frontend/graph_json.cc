#include "compiler/frontend/graph_json.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compiler/frontend/json_place.h"
#include "compiler/ir/status_macros.h"
#include "nlohmann/json.hpp"

namespace flashflow::frontend {
namespace {

using Json = nlohmann::json;

constexpr int kMaxArgDepth = 4;  // lists in lists, as index.Tensor takes
constexpr size_t kMaxTextInMessage = 60;

// Short, and never deeper than one level: the text may nest without end.
std::string Describe(const Json& json, bool nested = false) {
  if (json.is_structured() && nested) return json.is_array() ? "[...]" : "{...}";
  std::string text;
  if (json.is_structured()) {
    for (const auto& [key, value] : json.items()) {
      if (text.size() > kMaxTextInMessage) break;
      absl::StrAppend(&text, text.empty() ? "" : ", ", json.is_object() ? absl::StrCat(key, ": ") : "",
                      Describe(value, /*nested=*/true));
    }
    text = json.is_array() ? absl::StrCat("[", text, "]") : absl::StrCat("{", text, "}");
  } else {
    text = json.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  }
  if (text.size() > kMaxTextInMessage) text = absl::StrCat(text.substr(0, kMaxTextInMessage), "...");
  return text;
}

// An error about the value at the path. ParseGraphJson, which has the text, says where in it that is.
constexpr std::string_view kPathPayload = "flashflow.graph_json.path";

absl::Status Error(std::string_view where, std::string_view what) {
  absl::Status status = absl::InvalidArgumentError(where.empty() ? std::string(what) : absl::StrCat(where, ": ", what));
  status.SetPayload(kPathPayload, absl::Cord(where));
  return status;
}

absl::Status Wrong(std::string_view where, std::string_view expected, const Json& came) {
  return Error(where, absl::StrCat("expected ", expected, ", got ", Describe(came)));
}

// The elements of an object, read by name; an unknown or missing key is an error.
class Object {
 public:
  static absl::StatusOr<Object> From(const Json& json, std::string where, std::initializer_list<std::string_view> keys,
                                     std::initializer_list<std::string_view> optional_keys = {}) {
    if (!json.is_object()) return Wrong(where, "an object", json);
    for (const auto& [key, value] : json.items()) {
      if (std::find(keys.begin(), keys.end(), key) == keys.end() &&
          std::find(optional_keys.begin(), optional_keys.end(), key) == optional_keys.end()) {
        return Error(where, absl::StrCat("unknown key ", Describe(Json(key)), "; known: ", absl::StrJoin(keys, ", ")));
      }
    }
    for (std::string_view key : keys) {
      if (!json.contains(key)) return Error(where, absl::StrCat("key \"", key, "\" is missing"));
    }
    return Object(json, std::move(where));
  }

  bool Has(std::string_view key) const { return json_->contains(key); }
  const Json& at(std::string_view key) const { return *json_->find(key); }
  std::string Where(std::string_view key) const {
    return where_.empty() ? std::string(key) : absl::StrCat(where_, ".", key);
  }
  const std::string& where() const { return where_; }

  absl::StatusOr<std::string> String(std::string_view key) const {
    if (!Has(key)) return std::string();
    if (!at(key).is_string()) return Wrong(Where(key), "a string", at(key));
    return at(key).get<std::string>();
  }
  absl::StatusOr<std::string> Name(std::string_view key) const {
    FF_ASSIGN_OR_RETURN(std::string name, String(key));
    if (name.empty()) return Wrong(Where(key), "a name", at(key));
    return name;
  }
  absl::StatusOr<int64_t> Int(std::string_view key) const {
    const Json& json = at(key);
    if (!json.is_number_integer() ||
        (json.is_number_unsigned() && json.get<uint64_t>() > std::numeric_limits<int64_t>::max())) {
      return Wrong(Where(key), "a 64-bit integer", json);
    }
    return json.get<int64_t>();
  }
  absl::StatusOr<const Json*> List(std::string_view key) const {
    if (!at(key).is_array()) return Wrong(Where(key), "a list", at(key));
    return &at(key);
  }

 private:
  Object(const Json& json, std::string where) : json_(&json), where_(std::move(where)) {}
  const Json* json_;
  std::string where_;
};

absl::StatusOr<DType> ParseDTypeJson(const Json& json, std::string_view where) {
  if (json.is_string()) {
    if (std::optional<DType> dtype = ParseDType(json.get_ref<const std::string&>())) return *dtype;
  }
  return Wrong(where, "one of f32, f16, bf16, i8, i32, i64, bool", json);
}

absl::StatusOr<DimExpr> ParseDim(const Json& json, std::string_view where) {
  if (json.is_number_integer() && (!json.is_number_unsigned() || json.get<uint64_t>() <= INT64_MAX)) {
    return DimExpr(json.get<int64_t>());
  }
  if (json.is_string()) {
    absl::StatusOr<DimExpr> dim = DimExpr::Parse(json.get_ref<const std::string&>());
    if (dim.ok()) return dim;
  }
  return Wrong(where, "an integer or a dim expression like \"B*S\"", json);
}

absl::StatusOr<ir::TensorType> ParseType(const Object& object) {
  ir::TensorType type;
  FF_ASSIGN_OR_RETURN(type.dtype, ParseDTypeJson(object.at("dtype"), object.Where("dtype")));
  FF_ASSIGN_OR_RETURN(const Json* shape, object.List("shape"));
  if (shape->size() > ir::kMaxRank) {
    return Wrong(object.Where("shape"), absl::StrCat("at most ", ir::kMaxRank, " dims"), *shape);
  }
  for (const Json& json : *shape) {
    FF_ASSIGN_OR_RETURN(DimExpr dim, ParseDim(json, object.Where("shape")));
    if (dim.constant().value_or(0) < 0) return Wrong(object.Where("shape"), "dims of 0 or more", *shape);
    type.shape.push_back(std::move(dim));
  }
  return type;
}

absl::StatusOr<Arg> ParseArg(const Json& json, const std::string& where, int depth = 0) {
  if (json.is_null()) return Arg{};
  if (json.is_boolean()) return Arg{json.get<bool>()};
  if (json.is_string()) return Arg{json.get<std::string>()};
  if (json.is_number_integer()) {
    if (json.is_number_unsigned() && json.get<uint64_t>() > INT64_MAX) return Wrong(where, "a 64-bit integer", json);
    return Arg{json.get<int64_t>()};
  }
  if (json.is_number_float()) return Arg{json.get<double>()};
  if (json.is_array()) {
    if (depth == kMaxArgDepth) return Wrong(where, "less deeply nested lists", json);
    std::vector<Arg> list;
    for (size_t i = 0; i < json.size(); ++i) {
      FF_ASSIGN_OR_RETURN(Arg arg, ParseArg(json[i], absl::StrCat(where, "[", i, "]"), depth + 1));
      list.push_back(std::move(arg));
    }
    return Arg{std::move(list)};
  }
  if (json.is_object() && json.size() == 1) {
    const std::string& kind = json.begin().key();
    const Json& value = json.begin().value();
    if (kind == "dtype") {
      FF_ASSIGN_OR_RETURN(DType dtype, ParseDTypeJson(value, absl::StrCat(where, ".dtype")));
      return Arg{dtype};
    }
    if (kind == "dim") {
      FF_ASSIGN_OR_RETURN(DimExpr dim, ParseDim(value, absl::StrCat(where, ".dim")));
      return Arg{std::move(dim)};
    }
    if (value.is_string()) {
      const auto& text = value.get_ref<const std::string&>();
      if (kind == "ref") return Arg{Ref{text}};
      if (kind == "other") return Arg{Opaque{text}};
      if (kind == "float" && text == "inf") return Arg{std::numeric_limits<double>::infinity()};
      if (kind == "float" && text == "-inf") return Arg{-std::numeric_limits<double>::infinity()};
      if (kind == "float" && text == "nan") return Arg{std::numeric_limits<double>::quiet_NaN()};
    }
  }
  return Wrong(where,
               R"(a number, bool, string, null, list, or one of {"ref"}, {"dtype"}, {"dim"}, {"float"}, {"other"})",
               json);
}

// Ids and references: each id is new, each reference known.
class Ids {
 public:
  absl::Status Define(const std::string& id, std::string_view where) {
    if (known_.insert(id).second) return absl::OkStatus();
    return Error(where, absl::StrCat("id \"", id, "\" is used twice"));
  }
  absl::Status CheckKnown(const std::string& id, std::string_view where) const {
    if (known_.contains(id)) return absl::OkStatus();
    return Error(where, absl::StrCat("no input, weight or earlier node has the id \"", id, "\""));
  }
  absl::Status CheckKnown(const Arg& arg, std::string_view where) const {
    if (const Ref* ref = std::get_if<Ref>(&arg.value)) return CheckKnown(ref->id, where);
    if (const auto* list = std::get_if<std::vector<Arg>>(&arg.value)) {
      for (const Arg& element : *list) FF_RETURN_IF_ERROR(CheckKnown(element, where));
    }
    return absl::OkStatus();
  }

 private:
  absl::flat_hash_set<std::string> known_;
};

absl::Status ParseMetadata(const Json& json, AttrMap* metadata) {
  if (!json.is_object()) return Wrong("metadata", "an object", json);
  for (const auto& [key, value] : json.items()) {
    const std::string where = absl::StrCat("metadata.", key);
    FF_ASSIGN_OR_RETURN(Arg arg, ParseArg(value, where));
    if (auto* i = std::get_if<int64_t>(&arg.value)) {
      metadata->emplace(key, *i);
    } else if (auto* d = std::get_if<double>(&arg.value)) {
      metadata->emplace(key, *d);
    } else if (auto* b = std::get_if<bool>(&arg.value)) {
      metadata->emplace(key, *b);
    } else if (auto* s = std::get_if<std::string>(&arg.value)) {
      metadata->emplace(key, *s);
    } else {
      return Wrong(where, "an int, float, string or bool", value);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<JsonNode> ParseNode(const Json& json, const std::string& where, Ids* ids) {
  FF_ASSIGN_OR_RETURN(Object object, Object::From(json, where, {"id", "target", "args"},
                                                  {"kwargs", "dtype", "shape", "results", "module", "source"}));
  JsonNode node;
  FF_ASSIGN_OR_RETURN(node.id, object.Name("id"));
  FF_ASSIGN_OR_RETURN(node.target, object.Name("target"));
  FF_ASSIGN_OR_RETURN(node.module, object.String("module"));
  FF_ASSIGN_OR_RETURN(node.source, object.String("source"));
  FF_ASSIGN_OR_RETURN(const Json* args, object.List("args"));
  for (size_t i = 0; i < args->size(); ++i) {
    const std::string where_arg = absl::StrCat(where, ".args[", i, "]");
    FF_ASSIGN_OR_RETURN(Arg arg, ParseArg((*args)[i], where_arg));
    FF_RETURN_IF_ERROR(ids->CheckKnown(arg, where_arg));
    node.args.push_back(std::move(arg));
  }
  if (object.Has("kwargs")) {
    if (!object.at("kwargs").is_object()) return Wrong(object.Where("kwargs"), "an object", object.at("kwargs"));
    for (const auto& [key, value] : object.at("kwargs").items()) {
      const std::string where_arg = absl::StrCat(where, ".kwargs.", key);
      FF_ASSIGN_OR_RETURN(Arg arg, ParseArg(value, where_arg));
      FF_RETURN_IF_ERROR(ids->CheckKnown(arg, where_arg));
      node.kwargs.emplace_back(key, std::move(arg));
    }
  }
  if (object.Has("results")) {
    FF_ASSIGN_OR_RETURN(const Json* results, object.List("results"));
    for (size_t i = 0; i < results->size(); ++i) {
      FF_ASSIGN_OR_RETURN(Object result,
                          Object::From((*results)[i], absl::StrCat(where, ".results[", i, "]"), {"dtype", "shape"}));
      FF_ASSIGN_OR_RETURN(ir::TensorType type, ParseType(result));
      node.results.push_back(std::move(type));
    }
    if (node.results.empty() || object.Has("dtype") || object.Has("shape")) {
      return Wrong(where, R"(either "dtype" and "shape" or a non-empty "results")", json);
    }
  } else {
    if (!object.Has("dtype") || !object.Has("shape")) return Wrong(where, R"("dtype" and "shape", or "results")", json);
    FF_ASSIGN_OR_RETURN(ir::TensorType type, ParseType(object));
    node.results.push_back(std::move(type));
  }
  FF_RETURN_IF_ERROR(ids->Define(node.id, where));
  return node;
}

}  // namespace

std::string ArgToString(const Arg& arg) {
  struct Printer {
    std::string operator()(std::monostate) const { return "null"; }
    std::string operator()(const Ref& ref) const { return absl::StrCat("the tensor \"", ref.id, "\""); }
    std::string operator()(int64_t value) const { return absl::StrCat(value); }
    std::string operator()(double value) const { return AttrToString(value); }
    std::string operator()(bool value) const { return value ? "true" : "false"; }
    std::string operator()(const std::string& value) const { return QuoteString(value); }
    std::string operator()(DType value) const { return std::string(DTypeName(value)); }
    std::string operator()(const DimExpr& value) const { return value.ToString(); }
    std::string operator()(const Opaque& value) const { return value.text; }
    std::string operator()(const std::vector<Arg>& list) const {
      return absl::StrCat(
          "[",
          absl::StrJoin(list, ", ",
                        [](std::string* out, const Arg& element) { absl::StrAppend(out, ArgToString(element)); }),
          "]");
    }
  };
  return std::visit(Printer(), arg.value);
}

namespace {

// Takes anything, and keeps where the text stops being JSON.
class ErrorFinder : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return true; }
  bool key(string_t&) override { return true; }
  bool end_object() override { return true; }
  bool start_array(std::size_t) override { return true; }
  bool end_array() override { return true; }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
    bytes = position;
    return false;
  }
  std::size_t bytes = 0;  // read so far, the offending one included
};

absl::Status NotJson(std::string_view text) {
  ErrorFinder finder;
  nlohmann::json::sax_parse(text.begin(), text.end(), &finder);
  return absl::InvalidArgumentError(
      absl::StrCat("graph.json: ", PlaceOf(text, std::max<size_t>(finder.bytes, 1) - 1), ": not valid JSON"));
}

absl::StatusOr<GraphJson> ReadGraph(const Json& json) {
  FF_ASSIGN_OR_RETURN(
      Object root,
      Object::From(json, "", {"format", "version", "name", "symbols", "inputs", "weights", "nodes", "outputs"},
                   {"metadata", "producer"}));
  if (root.at("format") != "flashflow.graph") return Wrong("format", "\"flashflow.graph\"", root.at("format"));
  FF_ASSIGN_OR_RETURN(int64_t version, root.Int("version"));
  if (version != kGraphJsonVersion) {
    return Wrong("version", absl::StrCat(kGraphJsonVersion, ", the only one that this build reads"),
                 root.at("version"));
  }
  GraphJson graph;
  Ids ids;
  FF_ASSIGN_OR_RETURN(graph.name, root.Name("name"));
  if (root.Has("metadata")) FF_RETURN_IF_ERROR(ParseMetadata(root.at("metadata"), &graph.metadata));
  for (std::string_view key : {"symbols", "inputs", "weights", "nodes", "outputs"}) {
    FF_RETURN_IF_ERROR(root.List(key).status());
  }
  auto where = [](std::string_view list, size_t i) { return absl::StrCat(list, "[", i, "]"); };
  for (size_t i = 0; i < root.at("symbols").size(); ++i) {
    FF_ASSIGN_OR_RETURN(Object object,
                        Object::From(root.at("symbols")[i], where("symbols", i), {"name", "min", "max"}));
    std::pair<std::string, SymbolRange> symbol;
    FF_ASSIGN_OR_RETURN(symbol.first, object.Name("name"));
    FF_ASSIGN_OR_RETURN(symbol.second.min, object.Int("min"));
    FF_ASSIGN_OR_RETURN(symbol.second.max, object.Int("max"));
    graph.symbols.push_back(std::move(symbol));
  }
  for (size_t i = 0; i < root.at("inputs").size(); ++i) {
    FF_ASSIGN_OR_RETURN(Object object,
                        Object::From(root.at("inputs")[i], where("inputs", i), {"id", "name", "dtype", "shape"}));
    JsonInput input;
    FF_ASSIGN_OR_RETURN(input.id, object.Name("id"));
    FF_ASSIGN_OR_RETURN(input.name, object.Name("name"));
    FF_ASSIGN_OR_RETURN(input.type, ParseType(object));
    FF_RETURN_IF_ERROR(ids.Define(input.id, object.where()));
    graph.inputs.push_back(std::move(input));
  }
  for (size_t i = 0; i < root.at("weights").size(); ++i) {
    FF_ASSIGN_OR_RETURN(Object object,
                        Object::From(root.at("weights")[i], where("weights", i), {"id", "name", "dtype", "shape"}));
    JsonWeight weight;
    FF_ASSIGN_OR_RETURN(weight.id, object.Name("id"));
    FF_ASSIGN_OR_RETURN(weight.name, object.Name("name"));
    FF_ASSIGN_OR_RETURN(weight.type, ParseType(object));
    for (const DimExpr& dim : weight.type.shape) {
      if (!dim.IsConstant()) return Wrong(object.Where("shape"), "constant dims", object.at("shape"));
    }
    FF_RETURN_IF_ERROR(ids.Define(weight.id, object.where()));
    graph.weights.push_back(std::move(weight));
  }
  for (size_t i = 0; i < root.at("nodes").size(); ++i) {
    FF_ASSIGN_OR_RETURN(JsonNode node, ParseNode(root.at("nodes")[i], where("nodes", i), &ids));
    graph.nodes.push_back(std::move(node));
  }
  for (size_t i = 0; i < root.at("outputs").size(); ++i) {
    FF_ASSIGN_OR_RETURN(Object object, Object::From(root.at("outputs")[i], where("outputs", i), {"id", "name"}));
    JsonOutput output;
    FF_ASSIGN_OR_RETURN(output.id, object.Name("id"));
    FF_ASSIGN_OR_RETURN(output.name, object.Name("name"));
    FF_RETURN_IF_ERROR(ids.CheckKnown(output.id, object.where()));
    graph.outputs.push_back(std::move(output));
  }
  return graph;
}

}  // namespace

absl::StatusOr<GraphJson> ParseGraphJson(std::string_view text) {
  const Json json = Json::parse(text.begin(), text.end(), /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return NotJson(text);
  absl::StatusOr<GraphJson> graph = ReadGraph(json);
  if (graph.ok()) return graph;
  const std::string path(graph.status().GetPayload(kPathPayload).value_or(absl::Cord()));
  return absl::InvalidArgumentError(
      absl::StrCat("graph.json: ", PlaceOf(text, OffsetOf(text, path)), ": ", graph.status().message()));
}

}  // namespace flashflow::frontend
