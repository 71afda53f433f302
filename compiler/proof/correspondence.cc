#include "compiler/proof/correspondence.h"

#include <utility>

namespace flashflow::proof {

using ir::Value;
using ir::ValueKind;

const Value* SameSource(const ir::Graph& graph, const Value* source) {
  return source->kind() == ValueKind::kInput ? graph.FindInput(source->name()) : graph.FindWeight(source->name());
}

Correspondence::Correspondence(ir::Graph* graph, std::function<int64_t()> rewrites)
    : after_(graph), rewrites_(std::move(rewrites)) {
  absl::flat_hash_map<const Value*, const Value*> copies;
  before_ = graph->Clone(&copies);
  for (const auto& [value, copy] : copies) {
    if (value->kind() != ValueKind::kResult) continue;
    stand_in_[copy] = value;
    originals_[value] = {copy};
  }
  graph->set_observer(this);
}

Correspondence::~Correspondence() { after_->set_observer(nullptr); }

const Value* Correspondence::StandIn(const Value* before) const {
  auto it = stand_in_.find(before);
  if (it != stand_in_.end()) return it->second;
  return before->kind() == ValueKind::kResult ? nullptr : SameSource(*after_, before);
}

std::vector<const Value*> Correspondence::Originals(const Value* after) const {
  std::vector<const Value*> originals;
  if (auto it = originals_.find(after); it != originals_.end()) originals = it->second;
  if (after->kind() != ValueKind::kResult) {
    if (const Value* source = SameSource(*before_, after); source != nullptr) originals.push_back(source);
  }
  return originals;
}

int64_t Correspondence::RewriteOf(const Value* before) const {
  auto it = rewrite_of_.find(before);
  return it == rewrite_of_.end() ? 0 : it->second;
}

void Correspondence::OnReplaceAllUses(const Value* from, const Value* to) {
  auto it = originals_.find(from);
  if (it == originals_.end()) return;
  const std::vector<const Value*> moved = std::move(it->second);
  originals_.erase(it);
  std::vector<const Value*>& originals = originals_[to];
  for (const Value* value : moved) {
    originals.push_back(value);
    stand_in_[value] = to;
    rewrite_of_[value] = rewrites_();
  }
}

void Correspondence::OnDelete(const Value* value) {
  auto it = originals_.find(value);
  if (it == originals_.end()) return;
  for (const Value* original : it->second) stand_in_.erase(original);
  originals_.erase(it);
}

void Correspondence::OnSwap() {
  stand_in_.clear();
  originals_.clear();
}

}  // namespace flashflow::proof
