#include "tools/viz/provenance.h"

#include <algorithm>
#include <deque>
#include <utility>

namespace flashflow::tools {

using ir::Node;
using ir::Op;
using ir::Value;
using ir::ValueKind;

namespace {

// An attention over a rectangle is one over the cache's pages once the graph is made anew.
Op Lasting(Op op) { return op == Op::kAttention ? Op::kPagedAttention : op; }

// The node that computes what `node` gives: a reshape only shows it, unless that is all there was to do.
const Node* Worker(const Node& node, Op original) {
  const Node* worker = &node;
  while (worker->op() == Op::kReshape && original != Op::kReshape && worker->operand(0)->kind() == ValueKind::kResult) {
    worker = worker->operand(0)->def();
  }
  return worker;
}

// The weights that the node reads, itself or through nodes that only join, turn or convert weights.
void CollectWeights(const Node& node, std::vector<const Value*>* weights) {
  for (const Value* operand : node.operands()) {
    if (operand == nullptr) continue;
    if (operand->kind() == ValueKind::kWeight) weights->push_back(operand);
    if (operand->kind() == ValueKind::kResult &&
        (operand->def()->op() == Op::kConcat || operand->def()->op() == Op::kTranspose ||
         operand->def()->op() == Op::kCast)) {
      CollectWeights(*operand->def(), weights);
    }
  }
}

}  // namespace

Provenance::Provenance(ir::Graph* graph) : graph_(graph) {
  absl::flat_hash_map<const Value*, const Value*> copies;
  before_ = graph->Clone(&copies);
  for (const auto& [value, copy] : copies) {
    if (value->kind() == ValueKind::kResult) origins_[value].originals = {copy};
  }
  graph->set_observer(this);
}

Provenance::~Provenance() { graph_->set_observer(nullptr); }

void Provenance::BeginPass(std::string_view name) {
  pass_ = std::string(name);
  swapped_ = false;
  remembered_.clear();
  deleted_.clear();
  moved_.clear();
  for (const auto& node : graph_->nodes()) {
    Remembered entry = {node->op(), node->loc(), {}, {}};
    for (const Value* result : node->results()) {
      entry.results.push_back(origins_[result]);
      entry.values.push_back(result);
    }
    remembered_.push_back(std::move(entry));
  }
}

void Provenance::EndPass() {
  if (swapped_) RecognizeAll();
  std::vector<const Node*> made;
  for (const auto& node : graph_->nodes()) {
    for (const Value* result : node->results()) {
      const auto [it, is_new] = origins_.try_emplace(result);
      if (!is_new) continue;
      it->second.made_by = pass_;
      if (result->result_index() == 0) made.push_back(node.get());
    }
  }
  if (!swapped_) RecognizeCopies(made);
}

// In order: the first node of an op and a location is the first one before.
void Provenance::RecognizeAll() {
  absl::flat_hash_map<std::pair<Op, std::string>, std::deque<const Remembered*>> known;
  for (const Remembered& entry : remembered_) known[{Lasting(entry.op), entry.loc}].push_back(&entry);
  origins_.clear();
  for (const auto& node : graph_->nodes()) {
    const auto it = known.find({Lasting(node->op()), node->loc()});
    if (it == known.end() || it->second.empty()) continue;
    const Remembered& entry = *it->second.front();
    it->second.pop_front();
    for (size_t i = 0; i < std::min(entry.results.size(), node->results().size()); ++i) {
      origins_[node->results()[i]] = entry.results[i];
      if (entry.op != node->op()) origins_[node->results()[i]].made_by = pass_;
    }
  }
}

void Provenance::RecognizeCopies(const std::vector<const Node*>& made) {
  absl::flat_hash_map<std::pair<Op, std::string>, std::deque<const Remembered*>> replaced;
  for (const Remembered& entry : remembered_) {
    const bool unused = std::ranges::all_of(
        entry.values, [this](const Value* value) { return deleted_.contains(value) || !value->HasUses(); });
    if (unused && !entry.values.empty()) replaced[{entry.op, entry.loc}].push_back(&entry);
  }
  for (const Node* node : made) {
    const auto it = replaced.find({node->op(), node->loc()});
    if (it == replaced.end() || it->second.empty()) continue;
    const Remembered& entry = *it->second.front();
    it->second.pop_front();
    for (size_t i = 0; i < std::min(entry.results.size(), node->results().size()); ++i) {
      for (const Value* original : entry.results[i].originals) {
        if (!moved_.contains(original)) origins_[node->results()[i]].originals.push_back(original);
      }
      if (!deleted_.contains(entry.values[i])) origins_[entry.values[i]].originals.clear();
    }
  }
}

std::string Provenance::MadeBy(const Node* after) const {
  const auto it = origins_.find(after->results()[0]);
  return it == origins_.end() ? "" : it->second.made_by;
}

absl::flat_hash_map<const Node*, const Node*> Provenance::Successors() const {
  absl::flat_hash_map<const Node*, const Node*> successors;
  absl::flat_hash_map<std::string, std::vector<const Node*>> readers;  // of a weight, by its name
  for (const auto& node : graph_->nodes()) {
    for (const Value* result : node->results()) {
      const auto it = origins_.find(result);
      if (it == origins_.end()) continue;
      for (const Value* original : it->second.originals) {
        successors.try_emplace(original->def(), Worker(*node, original->def()->op()));
      }
    }
    const bool joins = node->op() == Op::kConcat || node->op() == Op::kCast ||
                       node->op() == Op::kTranspose;  // seen through by those that read it
    std::vector<const Value*> weights;
    if (!joins) CollectWeights(*node, &weights);
    for (const Value* weight : weights) readers[weight->name()].push_back(node.get());
  }
  for (const auto& node : before_->nodes()) {
    if (successors.contains(node.get())) continue;
    for (const Value* operand : node->operands()) {
      if (operand == nullptr || operand->kind() != ValueKind::kWeight) continue;
      const auto it = readers.find(operand->name());
      if (it == readers.end()) continue;
      const auto same = std::ranges::find_if(it->second, [&](const Node* n) { return n->loc() == node->loc(); });
      successors[node.get()] = same == it->second.end() ? it->second.front() : *same;
      break;
    }
  }
  // What a successor's own nodes were computed from, up to what others do.
  absl::flat_hash_map<const Node*, std::vector<const Node*>> regions;
  for (const auto& node : before_->nodes()) {
    if (const auto it = successors.find(node.get()); it != successors.end()) regions[it->second].push_back(node.get());
  }
  for (const auto& after : graph_->nodes()) {
    std::vector<const Node*> open = regions[after.get()];
    while (!open.empty()) {
      const Node* node = open.back();
      open.pop_back();
      for (const Value* operand : node->operands()) {
        if (operand == nullptr || operand->kind() != ValueKind::kResult) continue;
        if (dropped_.contains(operand->def())) continue;
        if (successors.try_emplace(operand->def(), after.get()).second) open.push_back(operand->def());
      }
    }
  }
  return successors;
}

void Provenance::OnReplaceAllUses(const Value* from, const Value* to) {
  const auto it = origins_.find(from);
  if (it == origins_.end()) return;
  const std::vector<const Value*> moved = std::move(it->second.originals);
  it->second.originals.clear();
  moved_.insert(moved.begin(), moved.end());
  if (to->kind() != ValueKind::kResult) {
    for (const Value* original : moved) dropped_.insert(original->def());
    return;
  }
  const auto [entry, is_new] = origins_.try_emplace(to);
  if (is_new) entry->second.made_by = pass_;
  entry->second.originals.insert(entry->second.originals.end(), moved.begin(), moved.end());
}

void Provenance::OnDelete(const Value* value) {
  origins_.erase(value);
  deleted_.insert(value);
}

}  // namespace flashflow::tools
