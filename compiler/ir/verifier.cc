#include "compiler/ir/verifier.h"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "compiler/ir/printer.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::ir {
namespace {

class Verifier {
 public:
  explicit Verifier(const Graph& graph) : graph_(graph), ranges_(graph.symbol_ranges()) {}

  absl::Status Run() {
    FF_RETURN_IF_ERROR(CheckSources("input", graph_.inputs()));
    FF_RETURN_IF_ERROR(CheckSources("weight", graph_.weights()));
    for (const auto& node : graph_.nodes()) {
      culprit_.value = node->results().empty() ? nullptr : node->result();
      if (absl::Status s = CheckNode(*node); !s.ok()) {
        return absl::InvalidArgumentError(absl::StrCat(Describe(graph_, *node), ": ", s.message()));
      }
    }
    FF_RETURN_IF_ERROR(CheckOutputs());
    FF_RETURN_IF_ERROR(CheckUseLists());
    return CheckCachesConsumed();
  }

  const Culprit& culprit() const { return culprit_; }

 private:
  // Inputs or weights.
  absl::Status CheckSources(std::string_view kind, absl::Span<Value* const> values) {
    absl::flat_hash_set<std::string_view> names;
    for (const Value* value : values) {
      culprit_.value = value;
      const std::string label = absl::StrCat(kind, " ", QuoteString(value->name()));
      if (value->name().empty()) return Error(label, "has no name");
      if (!names.insert(value->name()).second) return Error(label, "exists twice");
      if (value->type().is_absent()) return Error(label, "has no type");
      if (absl::Status s = CheckType(value->type()); !s.ok()) return Error(label, s.message());
      Define(value);
    }
    return absl::OkStatus();
  }

  absl::Status CheckType(const Type& type) const {
    if (type.is_cache()) {
      const CacheType& cache = type.cache();
      const bool storable = IsFloat(cache.dtype) || cache.dtype == DType::kI8;
      if (cache.layers > 0 && cache.kv_heads > 0 && cache.head_dim > 0 && storable) return absl::OkStatus();
      return absl::InvalidArgumentError(
          absl::StrCat(type.ToString(), ": expected positive dimensions, and a float dtype or i8"));
    }
    const Dims& shape = type.tensor().shape;
    if (shape.size() > kMaxRank) {
      return absl::InvalidArgumentError(absl::StrCat(type.ToString(), ": expected rank ", kMaxRank, " or less"));
    }
    if (NumElements(shape).overflowed()) {
      return absl::InvalidArgumentError(absl::StrCat(type.ToString(), ": the element count does not fit 64 bits"));
    }
    for (const DimExpr& dim : shape) {
      absl::StatusOr<SymbolRange> bounds = dim.Bounds(ranges_);
      if (!bounds.ok())
        return absl::InvalidArgumentError(absl::StrCat(type.ToString(), ": ", bounds.status().message()));
      if (bounds->max < 0) return absl::InvalidArgumentError(absl::StrCat(type.ToString(), ": a negative dimension"));
    }
    return absl::OkStatus();
  }

  absl::Status CheckNode(const Node& node) {
    std::vector<Type> operand_types;
    for (int i = 0; i < node.num_operands(); ++i) {
      const Value* operand = node.operand(i);
      if (operand == nullptr) {
        if (i == node.num_operands() - 1) return absl::InvalidArgumentError("the last operand is absent");
        operand_types.emplace_back();
        continue;
      }
      if (!defined_.contains(operand)) {
        return absl::InvalidArgumentError(absl::StrCat("operand ", i, " is used before it is defined"));
      }
      uses_[operand].insert({&node, i});
      operand_types.push_back(operand->type());
    }
    FF_RETURN_IF_ERROR(CheckResults(node, operand_types));
    if (node.def().effect != Effect::kPure) {
      const Value* cache = node.operand(0);
      if (consumed_.contains(cache)) return absl::InvalidArgumentError("the cache it takes is already consumed");
      if (node.def().effect == Effect::kConsumesCache) consumed_.insert(cache);
    }
    for (const Value* result : node.results()) Define(result);
    return absl::OkStatus();
  }

  absl::Status CheckResults(const Node& node, absl::Span<const Type> operand_types) const {
    AttrMap attrs = node.attrs();
    FF_ASSIGN_OR_RETURN(const std::vector<Type> types, InferTypes(node.op(), operand_types, &attrs));
    if (!SameAttrs(attrs, node.attrs())) return absl::InvalidArgumentError("attributes lack their defaults");
    if (types.size() != node.results().size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("has ", node.results().size(), " results, inference gives ", types.size()));
    }
    for (size_t i = 0; i < types.size(); ++i) {
      const Value* result = node.result(static_cast<int>(i));
      if (result->type() != types[i]) {
        return absl::InvalidArgumentError(
            absl::StrCat("result ", i, " is ", result->type().ToString(), ", inference gives ", types[i].ToString()));
      }
      if (result->def() != &node || result->result_index() != static_cast<int>(i)) {
        return absl::InvalidArgumentError(absl::StrCat("result ", i, " names another node as its definition"));
      }
      FF_RETURN_IF_ERROR(CheckType(result->type()));
    }
    return CheckAttrSymbols(node);
  }

  absl::Status CheckAttrSymbols(const Node& node) const {
    for (const auto& [name, attr] : node.attrs()) {
      Dims dims;
      if (const auto* list = std::get_if<Dims>(&attr)) dims = *list;
      if (const auto* dim = std::get_if<DimExpr>(&attr)) dims = {*dim};
      for (const DimExpr& dim : dims) {
        if (absl::Status s = dim.Bounds(ranges_).status(); !s.ok()) {
          return absl::InvalidArgumentError(absl::StrCat("attribute ", name, ": ", s.message()));
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckOutputs() {
    absl::flat_hash_set<std::string_view> names;
    culprit_.value = nullptr;
    for (const Output& output : graph_.outputs()) {
      ++culprit_.output;
      const std::string label = absl::StrCat("output ", QuoteString(output.name));
      if (output.name.empty()) return Error(label, "has no name");
      if (!names.insert(output.name).second) return Error(label, "exists twice");
      if (!defined_.contains(output.value)) return Error(label, "is no value of the graph");
      if (output.value->type().is_cache() && !consumed_.insert(output.value).second) {
        return Error(label, "is a cache that is already consumed");
      }
    }
    return absl::OkStatus();
  }

  // Each value's list holds every operand that is this value, once, and nothing else.
  absl::Status CheckUseLists() {
    culprit_.output = -1;
    for (const Value* value : order_) {
      culprit_.value = value;
      auto& uses = uses_[value];
      const size_t count = uses.size();
      bool stale = value->uses().size() != count;
      for (const Use& use : value->uses()) stale |= uses.erase({use.node, use.operand_index}) == 0;
      if (stale) {
        return Error(Label(*value), absl::StrCat("its use list, of ", value->uses().size(),
                                                 " entries, does not match its ", count, " uses"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckCachesConsumed() {
    for (const Value* value : order_) {
      culprit_.value = value;
      if (value->type().is_cache() && !consumed_.contains(value)) {
        return Error(Label(*value), "is a cache that nothing consumes: make it an output");
      }
    }
    return absl::OkStatus();
  }

  void Define(const Value* value) {
    defined_.insert(value);
    order_.push_back(value);
  }

  std::string Label(const Value& value) const {
    if (value.def() != nullptr) return Describe(graph_, *value.def());
    return absl::StrCat(value.kind() == ValueKind::kInput ? "input " : "weight ", QuoteString(value.name()));
  }

  static absl::Status Error(std::string_view what, std::string_view message) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": ", message));
  }

  const Graph& graph_;
  const SymbolRanges ranges_;
  absl::flat_hash_set<const Value*> defined_;
  absl::flat_hash_set<const Value*> consumed_;
  absl::flat_hash_map<const Value*, absl::flat_hash_set<std::pair<const Node*, int>>> uses_;  // as operands say
  std::vector<const Value*> order_;
  Culprit culprit_;  // what is being checked
};

}  // namespace

absl::Status Verify(const Graph& graph) { return Verifier(graph).Run(); }

absl::Status Verify(const Graph& graph, Culprit* culprit) {
  Verifier verifier(graph);
  const absl::Status status = verifier.Run();
  *culprit = verifier.culprit();
  return status;
}

}  // namespace flashflow::ir
