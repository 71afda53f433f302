#include "compiler/ir/graph.h"

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/log/check.h"
#include "absl/strings/str_cat.h"

namespace flashflow::ir {
namespace {

void EraseUse(std::vector<Use>& uses, const Use& use) {
  auto it = std::find(uses.begin(), uses.end(), use);
  CHECK(it != uses.end());
  uses.erase(it);
}

Value* Find(absl::Span<Value* const> values, std::string_view name) {
  auto it = std::find_if(values.begin(), values.end(), [name](const Value* v) { return v->name() == name; });
  return it == values.end() ? nullptr : *it;
}

bool SameNamesAndTypes(absl::Span<Value* const> a, absl::Span<Value* const> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Value* x, const Value* y) { return x->name() == y->name() && x->type() == y->type(); });
}

}  // namespace

bool Value::IsOutput() const {
  return std::any_of(graph_->outputs().begin(), graph_->outputs().end(),
                     [this](const Output& output) { return output.value == this; });
}

bool Value::HasUses() const { return !uses_.empty() || IsOutput(); }

std::unique_ptr<Graph> Graph::Clone() const {
  absl::flat_hash_map<const Value*, const Value*> copies;
  return Clone(&copies);
}

std::unique_ptr<Graph> Graph::Clone(absl::flat_hash_map<const Value*, const Value*>* copies_out) const {
  auto copy = std::make_unique<Graph>(name_);
  copy->symbols_ = symbols_;
  copy->metadata_ = metadata_;
  absl::flat_hash_map<const Value*, Value*> copies = {{nullptr, nullptr}};
  for (const Value* input : inputs_) copies[input] = copy->AddInput(input->name(), input->type());
  for (const Value* weight : weights_) copies[weight] = copy->AddWeight(weight->name(), weight->tensor());
  for (const auto& node : nodes_) {
    std::vector<Value*> operands;
    for (const Value* operand : node->operands()) operands.push_back(copies.at(operand));
    std::vector<Type> types;
    for (const Value* result : node->results()) types.push_back(result->type());
    Node* node_copy = copy->InsertNode(node->op(), std::move(operands), node->attrs(), node->loc(), types, nullptr);
    for (size_t i = 0; i < types.size(); ++i) copies[node->results()[i]] = node_copy->results_[i];
  }
  for (const Output& output : outputs_) copy->AddOutput(output.name, copies.at(output.value));
  copies.erase(nullptr);
  copies_out->clear();
  copies_out->insert(copies.begin(), copies.end());
  return copy;
}

void Graph::Swap(Graph& other) {
  std::swap(name_, other.name_);
  std::swap(symbols_, other.symbols_);
  std::swap(metadata_, other.metadata_);
  std::swap(values_, other.values_);
  std::swap(inputs_, other.inputs_);
  std::swap(weights_, other.weights_);
  std::swap(outputs_, other.outputs_);
  std::swap(nodes_, other.nodes_);
  for (auto& value : values_) value->graph_ = this;
  for (auto& value : other.values_) value->graph_ = &other;
  if (observer_ != nullptr) observer_->OnSwap();
  if (other.observer_ != nullptr) other.observer_->OnSwap();
}

absl::Status Graph::DeclareSymbol(std::string_view name, SymbolRange range) {
  if (!IsIdentifier(name)) {
    return absl::InvalidArgumentError(absl::StrCat("symbol ", QuoteString(name), " is not an identifier"));
  }
  if (range.min < 0 || range.min > range.max) {
    return absl::InvalidArgumentError(
        absl::StrCat("symbol ", name, ": expected 0 <= min <= max, got [", range.min, ", ", range.max, "]"));
  }
  for (const auto& [known, known_range] : symbols_) {
    if (known != name) continue;
    if (known_range == range) return absl::OkStatus();
    return absl::AlreadyExistsError(absl::StrCat("symbol ", name, " is declared as [", known_range.min, ", ",
                                                 known_range.max, "] and as [", range.min, ", ", range.max, "]"));
  }
  if (symbols_.size() == kMaxSymbols) {
    return absl::InvalidArgumentError(absl::StrCat("symbol ", name, ": a graph has at most ", kMaxSymbols, " symbols"));
  }
  symbols_.emplace_back(name, range);
  return absl::OkStatus();
}

SymbolRanges Graph::symbol_ranges() const { return {symbols_.begin(), symbols_.end()}; }

Value* Graph::NewValue(ValueKind kind, Type type, std::string name) {
  auto& value = values_.emplace_back(std::make_unique<Value>());
  value->graph_ = this;
  value->kind_ = kind;
  value->type_ = std::move(type);
  value->name_ = std::move(name);
  return value.get();
}

void Graph::DeleteValue(Value* value) {
  if (observer_ != nullptr) observer_->OnDelete(value);
  auto it = std::find_if(values_.begin(), values_.end(), [value](const auto& v) { return v.get() == value; });
  CHECK(it != values_.end());
  std::swap(*it, values_.back());
  values_.pop_back();
}

Value* Graph::AddInput(std::string name, Type type) {
  return inputs_.emplace_back(NewValue(ValueKind::kInput, std::move(type), std::move(name)));
}

Value* Graph::AddWeight(std::string name, TensorType type) {
  return weights_.emplace_back(NewValue(ValueKind::kWeight, std::move(type), std::move(name)));
}

void Graph::AddOutput(std::string name, Value* value) { outputs_.push_back({std::move(name), value}); }

absl::StatusOr<Node*> Graph::AddNode(Op op, std::vector<Value*> operands, AttrMap attrs, std::string loc,
                                     Node* before) {
  while (!operands.empty() && operands.back() == nullptr) operands.pop_back();
  std::vector<Type> types;
  for (const Value* operand : operands) types.push_back(operand == nullptr ? Type() : operand->type());
  absl::StatusOr<std::vector<Type>> results = InferTypes(op, types, &attrs);
  if (!results.ok()) {
    if (loc.empty()) return results.status();
    return absl::Status(results.status().code(), absl::StrCat(results.status().message(), " (at ", loc, ")"));
  }
  return InsertNode(op, std::move(operands), std::move(attrs), std::move(loc), *results, before);
}

Node* Graph::InsertNode(Op op, std::vector<Value*> operands, AttrMap attrs, std::string loc,
                        absl::Span<const Type> results, Node* before) {
  auto position = nodes_.insert(before == nullptr ? nodes_.end() : before->position_, std::make_unique<Node>());
  Node* node = position->get();
  node->op_ = op;
  node->operands_ = std::move(operands);
  node->attrs_ = std::move(attrs);
  node->loc_ = std::move(loc);
  node->position_ = position;
  for (int i = 0; i < node->num_operands(); ++i) {
    if (node->operand(i) != nullptr) node->operand(i)->uses_.push_back({node, i});
  }
  for (size_t i = 0; i < results.size(); ++i) {
    Value* result = NewValue(ValueKind::kResult, results[i], "");
    result->def_ = node;
    result->result_index_ = static_cast<int>(i);
    node->results_.push_back(result);
  }
  return node;
}

Value* Graph::FindInput(std::string_view name) const { return Find(inputs_, name); }
Value* Graph::FindWeight(std::string_view name) const { return Find(weights_, name); }

void Graph::SetOperand(Node* node, int index, Value* value) {
  Value*& operand = node->operands_[index];
  if (operand != nullptr) EraseUse(operand->uses_, {node, index});
  operand = value;
  if (value != nullptr) value->uses_.push_back({node, index});
}

void Graph::SetOutput(int index, Value* value) { outputs_[index].value = value; }

void Graph::ReplaceAllUsesWith(Value* from, Value* to) {
  if (from == to) return;
  if (observer_ != nullptr) observer_->OnReplaceAllUses(from, to);
  while (!from->uses_.empty()) {
    const Use use = from->uses_.back();
    SetOperand(use.node, use.operand_index, to);
  }
  for (Output& output : outputs_) {
    if (output.value == from) output.value = to;
  }
}

void Graph::SetType(Value* value, Type type) {
  CHECK(value->kind_ != ValueKind::kResult);
  value->type_ = std::move(type);
}

void Graph::MoveBefore(Node* node, Node* before) {
  if (node != before) nodes_.splice(before->position_, nodes_, node->position_);
}

void Graph::Erase(Node* node) {
  for (int i = 0; i < node->num_operands(); ++i) SetOperand(node, i, nullptr);
  for (Value* result : node->results_) {
    CHECK(!result->HasUses()) << "a used result of " << OpName(node->op()) << " is erased";
    DeleteValue(result);
  }
  nodes_.erase(node->position_);
}

void Graph::EraseInput(Value* input) {
  CHECK(!input->HasUses()) << "input " << input->name() << " is used";
  inputs_.erase(std::find(inputs_.begin(), inputs_.end(), input));
  DeleteValue(input);
}

void Graph::EraseWeight(Value* weight) {
  CHECK(!weight->HasUses()) << "weight " << weight->name() << " is used";
  weights_.erase(std::find(weights_.begin(), weights_.end(), weight));
  DeleteValue(weight);
}

absl::flat_hash_map<const Value*, int> NumberValues(const Graph& graph) {
  absl::flat_hash_map<const Value*, int> numbers;
  auto add = [&numbers](const Value* value) { numbers.emplace(value, static_cast<int>(numbers.size())); };
  for (const Value* input : graph.inputs()) add(input);
  for (const Value* weight : graph.weights()) add(weight);
  for (const auto& node : graph.nodes()) {
    for (const Value* result : node->results()) add(result);
  }
  return numbers;
}

bool StructurallyEqual(const Graph& a, const Graph& b) {
  if (a.name() != b.name() || a.symbols() != b.symbols() || !SameAttrs(a.metadata(), b.metadata()) ||
      !SameNamesAndTypes(a.inputs(), b.inputs()) || !SameNamesAndTypes(a.weights(), b.weights())) {
    return false;
  }
  const absl::flat_hash_map<const Value*, int> numbers_a = NumberValues(a);
  const absl::flat_hash_map<const Value*, int> numbers_b = NumberValues(b);
  auto same_value = [&](const Value* x, const Value* y) {
    return x == nullptr || y == nullptr ? x == y : numbers_a.at(x) == numbers_b.at(y);
  };
  auto same_node = [&](const std::unique_ptr<Node>& x, const std::unique_ptr<Node>& y) {
    return x->op() == y->op() && x->loc() == y->loc() && SameAttrs(x->attrs(), y->attrs()) &&
           std::equal(x->operands().begin(), x->operands().end(), y->operands().begin(), y->operands().end(),
                      same_value) &&
           SameNamesAndTypes(x->results(), y->results());
  };
  auto same_output = [&](const Output& x, const Output& y) { return x.name == y.name && same_value(x.value, y.value); };
  return std::equal(a.nodes().begin(), a.nodes().end(), b.nodes().begin(), b.nodes().end(), same_node) &&
         std::equal(a.outputs().begin(), a.outputs().end(), b.outputs().begin(), b.outputs().end(), same_output);
}

}  // namespace flashflow::ir
