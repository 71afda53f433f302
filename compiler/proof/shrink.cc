#include "compiler/proof/shrink.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "compiler/ir/verifier.h"

namespace flashflow::proof {
namespace {

using ir::Graph;
using ir::Node;
using ir::OperandKind;
using ir::Value;

// Erases nodes that nothing uses.
void Sweep(Graph* graph) {
  std::vector<Node*> nodes;
  for (const auto& node : graph->nodes()) nodes.push_back(node.get());
  for (auto it = nodes.rbegin(); it != nodes.rend(); ++it) {
    const auto used = [](const Value* result) { return result->HasUses(); };
    if (std::ranges::none_of((*it)->results(), used)) graph->Erase(*it);
  }
}

std::vector<Node*> Nodes(const Graph& graph) {
  std::vector<Node*> nodes;
  for (const auto& node : graph.nodes()) nodes.push_back(node.get());
  return nodes;
}

// What a rebuilt graph takes over, and how.
struct Rebuild {
  std::function<bool(const ir::Output&)> keeps_output = [](const ir::Output&) { return true; };
  std::function<bool(const Value*)> keeps_source = [](const Value*) { return true; };  // inputs and weights
  std::function<bool(const std::string&)> keeps_symbol = [](const std::string&) { return true; };
  std::function<DimExpr(const DimExpr&)> dim = [](const DimExpr& d) { return d; };
  bool keeps_locations = true;

  Dims Of(const Dims& shape) const {
    Dims dims;
    for (const DimExpr& d : shape) dims.push_back(dim(d));
    return dims;
  }

  // nullptr if no graph comes of it.
  std::unique_ptr<Graph> Run(const Graph& from) const {
    auto graph = std::make_unique<Graph>(from.name());
    for (const auto& [name, range] : from.symbols()) {
      if (keeps_symbol(name) && !graph->DeclareSymbol(name, range).ok()) return nullptr;
    }
    graph->metadata() = from.metadata();
    absl::flat_hash_map<const Value*, Value*> copies = {{nullptr, nullptr}};
    const auto type = [this](const Value* value) -> ir::Type {
      if (!value->type().is_tensor()) return value->type();
      return ir::TensorType{value->tensor().dtype, Of(value->tensor().shape)};
    };
    for (const Value* input : from.inputs()) {
      if (keeps_source(input)) copies[input] = graph->AddInput(input->name(), type(input));
    }
    for (const Value* weight : from.weights()) {
      if (keeps_source(weight)) copies[weight] = graph->AddWeight(weight->name(), type(weight).tensor());
    }
    for (const auto& node : from.nodes()) {
      std::vector<Value*> operands;
      for (const Value* operand : node->operands()) {
        auto it = copies.find(operand);
        if (it == copies.end()) return nullptr;
        operands.push_back(it->second);
      }
      AttrMap attrs = node->attrs();
      for (auto& [name, attr] : attrs) {
        if (auto* dims = std::get_if<Dims>(&attr); dims != nullptr) *dims = Of(*dims);
        if (auto* one = std::get_if<DimExpr>(&attr); one != nullptr) *one = dim(*one);
      }
      const absl::StatusOr<Node*> copy =
          graph->AddNode(node->op(), std::move(operands), std::move(attrs), keeps_locations ? node->loc() : "");
      if (!copy.ok() || (*copy)->results().size() != node->results().size()) return nullptr;
      for (size_t i = 0; i < node->results().size(); ++i) copies[node->results()[i]] = (*copy)->results()[i];
    }
    for (const ir::Output& output : from.outputs()) {
      if (!keeps_output(output)) continue;
      auto it = copies.find(output.value);
      if (it == copies.end()) return nullptr;
      graph->AddOutput(output.name, it->second);
    }
    return graph;
  }
};

// The dim with every constant that equals `from` made `to`; of products, the coefficient.
DimExpr WithConstant(const DimExpr& dim, int64_t from, int64_t to) {
  if (dim == DimExpr(from)) return to;
  if (dim.IsConstant()) return dim;
  if (const std::optional<DimExpr> rest = dim.DividedBy(from); rest.has_value()) return *rest * to;
  return dim;
}

// The dim with a number in place of a symbol, by way of its text.
DimExpr WithSymbol(const DimExpr& dim, std::string_view symbol, int64_t value) {
  std::string text = dim.ToString();
  const auto is_word = [&text](size_t i) {
    return i < text.size() && (absl::ascii_isalnum(text[i]) || text[i] == '_');
  };
  for (size_t at = 0; (at = text.find(symbol, at)) != std::string::npos;) {
    if (is_word(at + symbol.size()) || (at > 0 && is_word(at - 1))) {
      at += symbol.size();
      continue;
    }
    const std::string number = absl::StrCat(value);
    text.replace(at, symbol.size(), number);
    at += number.size();
  }
  return DimExpr::Parse(text).value_or(dim);
}

class Shrinker {
 public:
  Shrinker(const Graph& graph, const Fails& fails, const ShrinkOptions& options)
      : best_(graph.Clone()), fails_(fails), attempts_left_(options.max_attempts) {}

  std::unique_ptr<Graph> Run() {
    ShowDeadNodes();
    bool smaller = true;
    while (smaller && attempts_left_ > 0) {
      smaller = false;
      smaller |= DropOutputs();
      smaller |= CutRuns();
      smaller |= MoveOutputs();
      smaller |= ReplaceByOperands();
      smaller |= DropOptionalOperands();
      smaller |= DropSources();
      smaller |= ShrinkDims();
      smaller |= Strip();
    }
    return std::move(best_);
  }

 private:
  bool StillFails(const Graph& graph) {
    --attempts_left_;
    return fails_(graph);
  }

  // Takes the graph if it is right, differs, and fails.
  bool Take(std::unique_ptr<Graph> graph) {
    if (graph == nullptr || attempts_left_ <= 0) return false;
    Sweep(graph.get());
    if (graph->outputs().empty() || !ir::Verify(*graph).ok() || StructurallyEqual(*graph, *best_)) return false;
    if (!StillFails(*graph)) return false;
    best_ = std::move(graph);
    return true;
  }

  // What nothing uses is swept away from every candidate: where the failure needs it, it becomes an output.
  void ShowDeadNodes() {
    auto swept = best_->Clone();
    Sweep(swept.get());
    if (swept->nodes().size() == best_->nodes().size() || StillFails(*swept)) return;
    auto shown = best_->Clone();
    for (const auto& node : shown->nodes()) {
      for (Value* result : node->results()) {
        if (!result->HasUses()) shown->AddOutput(absl::StrCat("dead ", shown->outputs().size()), result);
      }
    }
    if (ir::Verify(*shown).ok() && StillFails(*shown)) best_ = std::move(shown);
  }

  // Gives out an operand of what was given out.
  bool MoveOutputs() {
    bool smaller = false;
    for (size_t i = 0; i < best_->outputs().size(); ++i) {
      bool moved = true;
      while (moved && best_->outputs()[i].value->def() != nullptr) {
        moved = false;
        const int operands = best_->outputs()[i].value->def()->num_operands();
        for (int operand = 0; operand < operands && !moved; ++operand) {
          auto graph = best_->Clone();
          Value* value = graph->outputs()[i].value->def()->operand(operand);
          if (value == nullptr) continue;
          graph->SetOutput(static_cast<int>(i), value);
          moved = Take(std::move(graph));
        }
        smaller |= moved;
      }
    }
    return smaller;
  }

  bool DropOutputs() {
    bool smaller = false;
    for (size_t i = best_->outputs().size(); i-- > 0 && best_->outputs().size() > 1;) {
      const std::string name = best_->outputs()[i].name;
      Rebuild rebuild;
      rebuild.keeps_output = [&name](const ir::Output& output) { return output.name != name; };
      smaller |= Take(rebuild.Run(*best_));
    }
    return smaller;
  }

  // Replaces nodes in a row by fresh inputs for what others use of them: from half of the graph down to single nodes.
  bool CutRuns() {
    bool smaller = false;
    for (size_t length = best_->nodes().size(); length > 0; length /= 2) {
      for (size_t first = 0; first < best_->nodes().size();) {
        if (Take(WithoutRun(first, length))) {
          smaller = true;  // what follows has moved up
        } else {
          first += length;
        }
      }
    }
    return smaller;
  }

  std::unique_ptr<Graph> WithoutRun(size_t first, size_t length) {
    auto graph = best_->Clone();
    const std::vector<Node*> nodes = Nodes(*graph);
    const size_t end = std::min(first + length, nodes.size());
    for (size_t i = first; i < end; ++i) {
      for (Value* result : nodes[i]->results()) {
        if (result->HasUses()) graph->ReplaceAllUsesWith(result, graph->AddInput(FreshName(*graph), result->type()));
      }
    }
    // Users first, so that no input made for a value inside the run stays.
    for (size_t i = end; i-- > first;) graph->Erase(nodes[i]);
    Rebuild rebuild;
    rebuild.keeps_source = [](const Value* source) { return source->HasUses() || !source->name().starts_with(kFresh); };
    return rebuild.Run(*graph);
  }

  static std::string FreshName(const Graph& graph) {
    int number = static_cast<int>(graph.inputs().size());
    while (graph.FindInput(absl::StrCat(kFresh, number)) != nullptr) ++number;
    return absl::StrCat(kFresh, number);
  }

  bool ReplaceByOperands() {
    bool smaller = false;
    for (size_t i = best_->nodes().size(); i-- > 0;) {
      if (i >= best_->nodes().size()) continue;
      const int operands = Nodes(*best_)[i]->num_operands();
      for (int operand = 0; operand < operands; ++operand) {
        auto graph = best_->Clone();
        Node* node = Nodes(*graph)[i];
        Value* value = node->operand(operand);
        if (value == nullptr || value->type() != node->result()->type()) continue;
        graph->ReplaceAllUsesWith(node->result(), value);
        if (Take(std::move(graph))) {
          smaller = true;
          break;
        }
      }
    }
    return smaller;
  }

  bool DropOptionalOperands() {
    bool smaller = false;
    for (size_t i = 0; i < best_->nodes().size(); ++i) {
      const Node* node = Nodes(*best_)[i];
      for (int operand = node->num_operands(); operand-- > 0;) {
        const auto& wanted = node->def().operands[std::min<size_t>(operand, node->def().operands.size() - 1)];
        if (wanted.kind == OperandKind::kRequired || node->operand(operand) == nullptr) continue;
        auto graph = best_->Clone();
        Node* before = Nodes(*graph)[i];
        std::vector<Value*> operands(before->operands().begin(), before->operands().end());
        if (wanted.kind == OperandKind::kOptional) {
          operands[operand] = nullptr;
        } else {
          operands.erase(operands.begin() + operand);
        }
        const auto after = graph->AddNode(before->op(), std::move(operands), before->attrs(), before->loc(), before);
        if (!after.ok()) continue;
        for (size_t r = 0; r < before->results().size(); ++r) {
          graph->ReplaceAllUsesWith(before->results()[r], (*after)->results()[r]);
        }
        if (!Take(std::move(graph))) continue;
        smaller = true;
        node = Nodes(*best_)[i];
        operand = std::min(operand, node->num_operands());
      }
    }
    return smaller;
  }

  bool DropSources() {
    bool smaller = false;
    std::vector<std::pair<ir::ValueKind, std::string>> unused;
    for (const auto& values : {best_->inputs(), best_->weights()}) {
      for (const Value* value : values) {
        if (!value->HasUses()) unused.emplace_back(value->kind(), value->name());
      }
    }
    for (const auto& [kind, name] : unused) {
      Rebuild rebuild;
      rebuild.keeps_source = [kind = kind, name = name](const Value* source) {
        return source->kind() != kind || source->name() != name;
      };
      smaller |= Take(rebuild.Run(*best_));
    }
    return smaller;
  }

  bool ShrinkDims() {
    bool smaller = false;
    const std::vector<std::pair<std::string, SymbolRange>> symbols = best_->symbols();
    for (const auto& [name, range] : symbols) {
      for (int64_t value : {int64_t{1}, int64_t{2}}) {
        Rebuild rebuild;
        rebuild.dim = [name = name, value](const DimExpr& dim) { return WithSymbol(dim, name, value); };
        rebuild.keeps_symbol = [name = name](const std::string& symbol) { return symbol != name; };
        if (!Take(rebuild.Run(*best_))) continue;
        smaller = true;
        break;
      }
    }
    std::set<int64_t> sizes;
    for (const auto& values : {best_->inputs(), best_->weights()}) {
      for (const Value* value : values) {
        if (!value->type().is_tensor()) continue;
        for (const DimExpr& dim : value->tensor().shape) sizes.insert(dim.constant().value_or(1));
      }
    }
    for (int64_t size : sizes) {
      for (int64_t value : {int64_t{1}, int64_t{2}, size / 2}) {
        if (value >= size || value < 1) continue;
        Rebuild rebuild;
        rebuild.dim = [size, value](const DimExpr& dim) { return WithConstant(dim, size, value); };
        if (!Take(rebuild.Run(*best_))) continue;
        smaller = true;
        break;
      }
    }
    return smaller;
  }

  // Metadata, locations and symbols that nothing names.
  bool Strip() {
    absl::flat_hash_set<std::string> named;
    const auto note = [&named](const Dims& dims) {
      for (const DimExpr& dim : dims) {
        for (const std::string& name : dim.symbols()) named.insert(name);
      }
    };
    for (const auto& values : {best_->inputs(), best_->weights()}) {
      for (const Value* value : values) {
        if (value->type().is_tensor()) note(value->tensor().shape);
      }
    }
    for (const auto& node : best_->nodes()) {
      for (const auto& [name, attr] : node->attrs()) {
        if (const auto* dims = std::get_if<Dims>(&attr); dims != nullptr) note(*dims);
        if (const auto* dim = std::get_if<DimExpr>(&attr); dim != nullptr) note({*dim});
      }
    }
    Rebuild rebuild;
    rebuild.keeps_symbol = [&named](const std::string& name) { return named.contains(name); };
    bool smaller = Take(rebuild.Run(*best_));
    rebuild = Rebuild();
    rebuild.keeps_locations = false;
    smaller |= Take(rebuild.Run(*best_));
    const AttrMap metadata = best_->metadata();
    for (const auto& [name, value] : metadata) {
      auto graph = best_->Clone();
      graph->metadata().erase(name);
      smaller |= Take(std::move(graph));
    }
    return smaller;
  }

  static constexpr char kFresh[] = "cut";

  std::unique_ptr<Graph> best_;
  const Fails& fails_;
  int attempts_left_;
};

}  // namespace

std::unique_ptr<Graph> Shrink(const Graph& graph, const Fails& fails, const ShrinkOptions& options) {
  return Shrinker(graph, fails, options).Run();
}

}  // namespace flashflow::proof
