#include "compiler/proof/region.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "compiler/ir/printer.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::proof {
namespace {

using ir::Graph;
using ir::Node;
using ir::Value;
using ir::ValueKind;
using ValueSet = absl::flat_hash_set<const Value*>;
using Orders = absl::flat_hash_map<const Value*, int>;

bool IsSource(const Value* value) { return value->kind() != ValueKind::kResult; }

// Whether an evaluation may give the value any elements it likes.
bool MayBeFree(const Value* value) {
  if (value->type().is_cache()) return true;
  return IsFloat(value->tensor().dtype) && value->def()->num_operands() > 0;
}

// Whether `value` is computed from any of `ancestors`. Values before the earliest of them are not looked at.
bool ComesFrom(const Value* value, const ValueSet& ancestors, const Orders& order) {
  if (ancestors.empty()) return false;
  int earliest = order.at(value);
  for (const Value* ancestor : ancestors) earliest = std::min(earliest, order.at(ancestor));
  std::vector<const Value*> stack = {value};
  ValueSet seen;
  while (!stack.empty()) {
    const Value* v = stack.back();
    stack.pop_back();
    if (v == nullptr || order.at(v) < earliest || !seen.insert(v).second) continue;
    if (v != value && ancestors.contains(v)) return true;
    if (v->def() != nullptr) stack.insert(stack.end(), v->def()->operands().begin(), v->def()->operands().end());
  }
  return false;
}

}  // namespace

// One side of a region: what is inside, and what it reads from outside, by the value before the pass.
struct RegionExtractor::Side {
  absl::flat_hash_set<const Node*> nodes;
  // This side's values at the boundary, by the order of the value before the pass that they take their elements from.
  absl::btree_map<int, std::vector<const Value*>> leaves;

  // Walks back from `root`. `original` gives the value before the pass that stands at the boundary for a value of this
  // side, or nullptr to walk on.
  absl::Status Walk(const Value* root, const std::function<const Value*(const Value*)>& original,
                    const Orders& before_order) {
    std::vector<const Value*> stack = {root};
    ValueSet seen;
    while (!stack.empty()) {
      const Value* v = stack.back();
      stack.pop_back();
      if (v == nullptr || !seen.insert(v).second) continue;
      if (const Value* leaf = original(v); leaf != nullptr) {
        leaves[before_order.at(leaf)].push_back(v);
      } else if (IsSource(v)) {
        return absl::InvalidArgumentError(
            absl::StrCat("it reads ", QuoteString(v->name()), ", which the graph before the pass does not have"));
      } else {
        nodes.insert(v->def());
        stack.insert(stack.end(), v->def()->operands().begin(), v->def()->operands().end());
      }
    }
    return absl::OkStatus();
  }
};

RegionExtractor::RegionExtractor(const Correspondence& pairs)
    : pairs_(pairs), before_order_(ir::NumberValues(pairs.before())), after_order_(ir::NumberValues(pairs.after())) {
  before_by_order_.resize(before_order_.size());
  for (const auto& [value, order] : before_order_) before_by_order_[order] = value;
}

bool RegionExtractor::IsCongruent(const Claim& claim, std::vector<Claim>* needed) const {
  const Node* b = claim.before->def();
  const Node* a = claim.after->def();
  if (b == nullptr || a == nullptr) {
    return b == a && SameSource(pairs_.before(), claim.after) == claim.before &&
           claim.before->type() == claim.after->type();
  }
  if (b->op() != a->op() || claim.before->result_index() != claim.after->result_index() ||
      claim.before->type() != claim.after->type() || !SameAttrs(b->attrs(), a->attrs()) ||
      b->num_operands() != a->num_operands()) {
    return false;
  }
  std::vector<Claim> operands;
  for (int i = 0; i < b->num_operands(); ++i) {
    if (b->operand(i) == nullptr || a->operand(i) == nullptr) {
      if (b->operand(i) != a->operand(i)) return false;
      continue;
    }
    if (pairs_.StandIn(b->operand(i)) != a->operand(i) || b->operand(i)->type() != a->operand(i)->type()) return false;
    if (!IsSource(b->operand(i))) operands.push_back({b->operand(i), a->operand(i)});
  }
  needed->insert(needed->end(), operands.begin(), operands.end());
  return true;
}

const Value* RegionExtractor::BoundaryOriginal(const Value* after, const Value* root, const ValueSet& blocked) const {
  if (IsSource(after)) return SameSource(pairs_.before(), after);
  if (!MayBeFree(after)) return nullptr;
  const Value* best = nullptr;
  for (const Value* original : pairs_.Originals(after)) {
    if (IsSource(original) || blocked.contains(original) || !MayBeFree(original)) continue;
    if (Order(original) >= Order(root)) continue;  // claims rest on claims about earlier values only
    if (best == nullptr || Order(original) < Order(best)) best = original;
  }
  return best;
}

absl::StatusOr<Region> RegionExtractor::Extract(const Claim& claim, const ValueSet& blocked_values) const {
  ValueSet blocked = blocked_values;
  ValueSet inside_after;  // values of the rewritten graph that must not be at the boundary either
  Side before, after;
  while (true) {
    before = after = Side();
    FF_RETURN_IF_ERROR(before.Walk(
        claim.before,
        [&](const Value* v) -> const Value* {
          if (IsSource(v)) return v;
          if (v == claim.before || blocked.contains(v) || !MayBeFree(v) || pairs_.StandIn(v) == nullptr) return nullptr;
          // One value may stand for several: they have the same elements.
          return BoundaryOriginal(pairs_.StandIn(v), claim.before, blocked);
        },
        before_order_));
    FF_RETURN_IF_ERROR(after.Walk(
        claim.after,
        [&](const Value* v) -> const Value* {
          return inside_after.contains(v) ? nullptr : BoundaryOriginal(v, claim.before, blocked);
        },
        before_order_));

    // A value that only one side reads is not free if it is made from what the other side reads: the other side may
    // make it again. First from what the other side alone reads: that the two sides meet is the common case, and
    // nearly everything is made from a value as shared as the residual.
    const size_t size = blocked.size() + inside_after.size();
    for (const bool with_shared : {false, true}) {
      ValueSet read_before, read_after;  // by the other graph's values
      std::vector<const Value*> only_before, only_after;
      for (const auto& [order, values] : before.leaves) {
        const bool shared = after.leaves.contains(order);
        for (const Value* v : values) {
          if (!shared) only_before.push_back(v);
          const Value* stand_in = pairs_.StandIn(v);
          if (stand_in != nullptr && (!shared || (with_shared && !IsSource(v)))) read_before.insert(stand_in);
        }
      }
      for (const auto& [order, values] : after.leaves) {
        const bool shared = before.leaves.contains(order);
        if (!shared) only_after.insert(only_after.end(), values.begin(), values.end());
        const Value* original = before_by_order_.at(order);
        if (!shared || (with_shared && !IsSource(original))) read_after.insert(original);
      }
      for (const Value* v : only_before) {
        if (!IsSource(v) && ComesFrom(v, read_after, before_order_)) blocked.insert(v);
      }
      if (with_shared && blocked.size() + inside_after.size() > size) break;
      for (const Value* v : only_after) {
        if (!IsSource(v) && ComesFrom(v, read_before, after_order_)) inside_after.insert(v);
      }
      if (blocked.size() + inside_after.size() > size) break;
    }
    if (blocked.size() + inside_after.size() == size) break;
  }

  // Names of the boundary, in the order of the graph before the pass.
  absl::btree_map<int, std::string> names;
  Region region;
  int weights = 0;
  int results = 0;
  absl::btree_map<int, std::vector<const Value*>> all = before.leaves;
  all.insert(after.leaves.begin(), after.leaves.end());
  for (const auto& [order, values] : all) {
    const Value* v = before_by_order_.at(order);
    names[order] = v->kind() == ValueKind::kInput    ? v->name()
                   : v->kind() == ValueKind::kWeight ? absl::StrCat("weight ", weights++)
                                                     : absl::StrCat("value ", results++);
    if (!IsSource(v)) region.free.push_back(v);
  }
  for (const auto& [order, values] : before.leaves) {
    for (const Value* v : values) {
      if (IsSource(v)) continue;
      region.free.push_back(v);
      if (after.leaves.contains(order)) region.boundary.push_back({v, pairs_.StandIn(v)});
    }
  }

  const auto build = [&](const Graph& from, const Side& side,
                         const Value* root) -> absl::StatusOr<std::unique_ptr<Graph>> {
    auto graph = std::make_unique<Graph>("region");
    for (const auto& [name, range] : from.symbols()) {
      FF_RETURN_IF_ERROR(graph->DeclareSymbol(name, range));
      // What is left of a graph need not say what its symbols are; this does.
      graph->AddInput(absl::StrCat(kSymbolInput, name), ir::TensorType{DType::kBool, {DimExpr::Symbol(name)}});
    }
    absl::flat_hash_map<const Value*, Value*> copies = {{nullptr, nullptr}};
    for (const auto& [order, values] : side.leaves) {
      const Value* v = values.front();
      Value* leaf = before_by_order_.at(order)->kind() == ValueKind::kWeight
                        ? graph->AddWeight(names.at(order), v->tensor())
                        : graph->AddInput(names.at(order), v->type());
      for (const Value* value : values) copies[value] = leaf;
    }
    for (const auto& node : from.nodes()) {
      if (!side.nodes.contains(node.get())) continue;
      std::vector<Value*> operands;
      for (const Value* operand : node->operands()) operands.push_back(copies.at(operand));
      FF_ASSIGN_OR_RETURN(Node * copy, graph->AddNode(node->op(), std::move(operands), node->attrs()));
      for (size_t i = 0; i < node->results().size(); ++i) copies.emplace(node->results()[i], copy->results()[i]);
    }
    graph->AddOutput("out", copies.at(root));
    return graph;
  };
  FF_ASSIGN_OR_RETURN(region.before, build(pairs_.before(), before, claim.before));
  FF_ASSIGN_OR_RETURN(region.after, build(pairs_.after(), after, claim.after));
  return region;
}

}  // namespace flashflow::proof
