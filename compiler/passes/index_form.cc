#include "compiler/passes/index_form.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "compiler/passes/rewrite.h"

namespace flashflow::passes {
namespace {

using ir::Node;
using ir::Op;
using ir::Value;

constexpr int64_t kLargestPosition = int64_t{1} << 30;
constexpr int64_t kLargestStep = int64_t{1} << 31;
constexpr size_t kMostTerms = 8;

const Dims& Shape(const Value* value) { return value->tensor().shape; }

IndexForm Uniform(DimExpr constant, size_t rank) { return {std::move(constant), std::vector<int64_t>(rank, 0)}; }

// a + factor * b, over equal shapes. nullopt if they count the positions of different sequences.
std::optional<IndexForm> Sum(const IndexForm& a, int64_t factor, const IndexForm& b) {
  if (std::abs(factor) > kLargestStep) return std::nullopt;
  IndexForm sum = a;
  sum.constant = sum.constant + DimExpr(factor) * b.constant;
  for (size_t i = 0; i < sum.steps.size(); ++i) {
    sum.steps[i] += factor * b.steps[i];
    if (std::abs(sum.steps[i]) > kLargestStep) return std::nullopt;
  }
  if (b.bases != 0) {
    if (a.bases != 0 && a.row != b.row) return std::nullopt;
    sum.row = b.row;
    sum.bases += factor * b.bases;
    if (std::abs(sum.bases) > kLargestStep) return std::nullopt;
  }
  if (sum.bases == 0) sum.row = -1;
  if (sum.constant.overflowed()) return std::nullopt;
  return sum;
}

// Axes that are not of size 1, in order.
std::vector<int> LongAxes(const Dims& shape) {
  std::vector<int> axes;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] != DimExpr(1)) axes.push_back(static_cast<int>(i));
  }
  return axes;
}

std::optional<IndexForm> Reshaped(const IndexForm& x, const Dims& from, const Dims& to) {
  const std::vector<int> in = LongAxes(from);
  const std::vector<int> out = LongAxes(to);
  if (!std::equal(in.begin(), in.end(), out.begin(), out.end(), [&](int i, int o) { return from[i] == to[o]; })) {
    return std::nullopt;
  }
  IndexForm form = Uniform(x.constant, to.size());
  form.bases = x.bases;
  for (size_t i = 0; i < in.size(); ++i) {
    form.steps[out[i]] = x.steps[in[i]];
    if (x.row == in[i]) form.row = out[i];
  }
  // Positions of the only sequence there is, on an axis of size 1 that the reshape has moved: not followed.
  if (x.bases != 0 && form.row < 0) return std::nullopt;
  return form;
}

Condition And(const Condition& a, const Condition& b) {
  Condition both = a;
  both.never |= b.never;
  for (const IndexForm& term : b.terms) {
    if (std::ranges::find(both.terms, term) == both.terms.end()) both.terms.push_back(term);
  }
  if (both.never) both.terms.clear();
  return both;
}

Condition Decided(bool value) { return {.never = !value, .terms = {}}; }

}  // namespace

IndexForm Broadcast(const IndexForm& x, size_t rank) {
  const size_t added = rank - x.steps.size();
  IndexForm form = x;
  form.steps.insert(form.steps.begin(), added, 0);
  if (form.row >= 0) form.row += static_cast<int>(added);
  return form;
}

Condition Broadcast(const Condition& x, size_t rank) {
  Condition broadcast = x;
  for (IndexForm& term : broadcast.terms) term = Broadcast(term, rank);
  return broadcast;
}

IndexForms::IndexForms(const ir::Graph& graph, bool consecutive_positions) : ranges_(graph.symbol_ranges()) {
  for (const Value* input : graph.inputs()) {
    if (consecutive_positions && input->name() == "position_ids" && input->type().is_tensor() &&
        IsInteger(input->tensor().dtype) && Shape(input).size() == 2) {
      Add(input, OptionalForm(IndexForm{.constant = 0, .steps = {0, 1}, .bases = 1, .row = 0}));
    }
  }
  for (const auto& node : graph.nodes()) {
    const Value* result = node->results().size() == 1 ? node->result() : nullptr;
    if (result == nullptr || !result->type().is_tensor()) continue;
    const DType dtype = result->tensor().dtype;
    if (dtype == DType::kI32 || dtype == DType::kI64) Add(result, IntegerOf(*node));
    if (dtype == DType::kBool) Add(result, PredicateOf(*node), &conditions_);
    if (!IsFloat(dtype)) continue;
    Add(result, UnmaskedOf(*node), &unmasked_);
    if (std::optional<Indicator> ones = OnesOf(*node)) ones_.emplace(result, *std::move(ones));
  }
}

const IndexForm* IndexForms::Integer(const Value* value) const {
  auto it = forms_.find(value);
  return it == forms_.end() ? nullptr : &it->second;
}

const Condition* IndexForms::Predicate(const Value* value) const {
  auto it = conditions_.find(value);
  return it == conditions_.end() ? nullptr : &it->second;
}

const Condition* IndexForms::Unmasked(const Value* value) const {
  auto it = unmasked_.find(value);
  return it == unmasked_.end() ? nullptr : &it->second;
}

const IndexForms::Indicator* IndexForms::Ones(const Value* value) const {
  auto it = ones_.find(value);
  return it == ones_.end() ? nullptr : &it->second;
}

void IndexForms::Add(const Value* value, OptionalForm form) {
  if (!form.has_value()) return;
  const Dims& shape = Shape(value);
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] == DimExpr(1)) form->steps[i] = 0;
  }
  // Integers wrap around where they overflow; an affine function does not.
  const int64_t largest = value->tensor().dtype == DType::kI32 ? (int64_t{1} << 31) - 1 : int64_t{1} << 53;
  const std::optional<SymbolRange> bounds = Bounds(*form, shape);
  if (!bounds.has_value() || bounds->min < -largest || bounds->max > largest) return;
  forms_[value] = *std::move(form);
}

void IndexForms::Add(const Value* value, OptionalCondition condition,
                     absl::flat_hash_map<const Value*, Condition>* conditions) {
  if (!condition.has_value()) return;
  // Decides what it can: x[1:] may decide what x does not.
  Condition decided = {.never = condition->never, .terms = {}};
  for (IndexForm& term : condition->terms) {
    for (size_t i = 0; i < term.steps.size(); ++i) {
      if (Shape(value)[i] == DimExpr(1)) term.steps[i] = 0;
    }
    const OptionalCondition one = AtLeastZero(std::move(term), Shape(value));
    if (!one.has_value()) return;
    decided = And(decided, *one);
  }
  if (decided.terms.size() <= kMostTerms) (*conditions)[value] = std::move(decided);
}

std::optional<SymbolRange> IndexForms::Bounds(const IndexForm& form, const Dims& shape) const {
  DimExpr least = form.constant;
  DimExpr greatest = form.constant;
  for (size_t i = 0; i < shape.size(); ++i) {
    DimExpr& end = form.steps[i] < 0 ? least : greatest;
    end = end + DimExpr(form.steps[i]) * (shape[i] - 1);
  }
  DimExpr& end = form.bases < 0 ? least : greatest;
  end = end + DimExpr(form.bases) * DimExpr(kLargestPosition);
  const auto low = least.Bounds(ranges_);
  const auto high = greatest.Bounds(ranges_);
  if (!low.ok() || !high.ok()) return std::nullopt;
  return SymbolRange{low->min, high->max};
}

IndexForms::OptionalCondition IndexForms::AtLeastZero(IndexForm form, const Dims& shape) const {
  const std::optional<SymbolRange> bounds = Bounds(form, shape);
  if (!bounds.has_value()) return std::nullopt;
  if (bounds->min >= 0) return Decided(true);
  if (bounds->max < 0) return Decided(false);
  return Condition{.never = false, .terms = {std::move(form)}};
}

IndexForms::OptionalForm IndexForms::Moved(const Node& node, const IndexForm& x) const {
  const Dims& from = Shape(node.operand(0));
  const Dims& to = Shape(node.result());
  switch (node.op()) {
    case Op::kReshape:
      return Reshaped(x, from, to);
    case Op::kExpand:
      return Broadcast(x, to.size());
    case Op::kTranspose: {
      const auto& perm = node.attr<std::vector<int64_t>>("perm");
      IndexForm form = x;
      for (size_t i = 0; i < perm.size(); ++i) {
        form.steps[i] = x.steps[perm[i]];
        if (perm[i] == x.row) form.row = static_cast<int>(i);
      }
      return form;
    }
    case Op::kSlice: {
      const int64_t axis = node.attr<int64_t>("axis");
      const int64_t step = node.attr<int64_t>("step");
      if (axis == x.row || step > kLargestStep) return std::nullopt;
      IndexForm form = x;
      form.constant = form.constant + DimExpr(x.steps[axis]) * node.attr<DimExpr>("start");
      form.steps[axis] *= step;
      if (form.constant.overflowed() || std::abs(form.steps[axis]) > kLargestStep) return std::nullopt;
      return form;
    }
    case Op::kIndex:
      return Indexed(node, x);
    default:
      return std::nullopt;
  }
}

// x[f_0, f_1, ...]: the indices' forms in place of x's first axes.
IndexForms::OptionalForm IndexForms::Indexed(const Node& node, const IndexForm& x) const {
  const int indices = node.num_operands() - 1;
  const size_t rank = Shape(node.result()).size();
  const size_t lead = rank - (x.steps.size() - indices);  // axes that the indices give
  OptionalForm form = Uniform(x.constant, rank);
  int row = -1;
  for (int k = 0; k < indices; ++k) {
    const IndexForm* index = Integer(node.operand(k + 1));
    if (index == nullptr) return std::nullopt;
    const std::optional<SymbolRange> bounds = Bounds(*index, Shape(node.operand(k + 1)));
    if (!bounds.has_value() || bounds->min < 0) return std::nullopt;  // it might count from the end
    IndexForm moved = Broadcast(*index, lead);
    moved.steps.resize(rank, 0);
    if (x.bases != 0 && x.row == k) {  // it must count the sequences themselves
      const auto along = std::ranges::find(moved.steps, 1);
      if (along == moved.steps.end() || moved.bases != 0) return std::nullopt;
      row = static_cast<int>(along - moved.steps.begin());
      IndexForm count = Uniform(0, rank);
      count.steps[row] = 1;
      if (moved != count) return std::nullopt;
    }
    form = Sum(*form, x.steps[k], moved);
    if (!form.has_value()) return std::nullopt;
  }
  for (size_t i = indices; i < x.steps.size(); ++i) {
    form->steps[lead + i - indices] = x.steps[i];
    if (x.row == static_cast<int>(i)) row = static_cast<int>(lead + i) - indices;
  }
  if (x.bases == 0) return form;
  IndexForm positions = Uniform(0, rank);
  positions.bases = x.bases;
  positions.row = row;
  return Sum(*form, 1, positions);
}

// The pieces must continue one another.
IndexForms::OptionalForm IndexForms::Concatenated(const Node& node) const {
  const int64_t axis = node.attr<int64_t>("axis");
  OptionalForm whole;
  int64_t step = 0;
  for (const Value* operand : node.operands()) {  // a piece of size 1 does not say how it goes on
    const IndexForm* piece = Integer(operand);
    if (piece == nullptr || piece->row == axis) return std::nullopt;
    if (Shape(operand)[axis] != DimExpr(1)) step = piece->steps[axis];
  }
  DimExpr offset = 0;
  for (const Value* operand : node.operands()) {
    IndexForm piece = *Integer(operand);
    piece.steps[axis] = step;
    piece.constant = piece.constant - DimExpr(step) * offset;
    if (whole.has_value() && piece != *whole) return std::nullopt;
    whole = std::move(piece);
    offset = offset + Shape(operand)[axis];
  }
  return whole;
}

IndexForms::OptionalForm IndexForms::IntegerOf(const Node& node) const {
  const size_t rank = Shape(node.result()).size();
  const auto operand = [&](int i) -> OptionalForm {
    const IndexForm* form = Integer(node.operand(i));
    return form == nullptr ? std::nullopt : OptionalForm(Broadcast(*form, rank));
  };
  switch (node.op()) {
    case Op::kConstant:
      return Uniform(static_cast<int64_t>(node.attr<double>("value")), rank);
    case Op::kIota: {
      IndexForm form = Uniform(0, rank);
      form.steps[node.attr<int64_t>("axis")] = 1;
      return form;
    }
    case Op::kAdd:
    case Op::kSub: {
      const OptionalForm a = operand(0);
      const OptionalForm b = operand(1);
      if (!a.has_value() || !b.has_value()) return std::nullopt;
      return Sum(*a, node.op() == Op::kAdd ? 1 : -1, *b);
    }
    case Op::kNeg: {
      const OptionalForm a = operand(0);
      return a.has_value() ? Sum(Uniform(0, rank), -1, *a) : std::nullopt;
    }
    case Op::kMul:
      for (const auto& [by, of] : {std::pair{0, 1}, std::pair{1, 0}}) {
        const OptionalForm factor = operand(by);
        const OptionalForm x = operand(of);
        if (!factor.has_value() || !x.has_value() || !factor->constant.IsConstant()) continue;
        if (*factor == Uniform(factor->constant, rank)) {
          return Sum(Uniform(0, rank), *factor->constant.constant(), *x);
        }
      }
      return std::nullopt;
    case Op::kWhere: {
      const Condition* condition = Predicate(node.operand(0));
      if (condition == nullptr || (!condition->always() && !condition->never)) return std::nullopt;
      return operand(condition->never ? 2 : 1);
    }
    case Op::kCast: {
      if (const Condition* condition = Predicate(node.operand(0)); condition != nullptr) {
        if (!condition->always() && !condition->never) return std::nullopt;
        return Uniform(condition->never ? 0 : 1, rank);
      }
      return operand(0);  // a form that does not fit the dtype is dropped by Add
    }
    case Op::kCumsum: {  // of equal numbers: 1, 2, 3, ... times the number
      const OptionalForm x = operand(0);
      if (!x.has_value() || *x != Uniform(x->constant, rank) || !x->constant.IsConstant()) return std::nullopt;
      const int64_t number = *x->constant.constant();
      if (std::abs(number) > kLargestStep) return std::nullopt;
      IndexForm form = *x;
      form.steps[node.attr<int64_t>("axis")] = number;
      return form;
    }
    case Op::kConcat:
      return Concatenated(node);
    default: {
      const IndexForm* x = node.num_operands() == 0 ? nullptr : Integer(node.operand(0));
      return x == nullptr ? std::nullopt : Moved(node, *x);
    }
  }
}

IndexForms::OptionalCondition IndexForms::Compared(const Node& node) const {
  const size_t rank = Shape(node.result()).size();
  if (const Indicator* ones = Ones(node.operand(0));
      ones != nullptr && (node.op() == Op::kEq || node.op() == Op::kNe)) {
    const std::optional<double> number = ConstantValue(node.operand(1));
    if (number != 0 && number != 1) return std::nullopt;
    const Condition condition = Broadcast(ones->condition, rank);
    const bool same = ((*number == 1) == (node.op() == Op::kEq)) != ones->inverse;
    return same ? condition : Not(condition, Shape(node.result()));
  }
  const IndexForm* left = Integer(node.operand(0));
  const IndexForm* right = Integer(node.operand(1));
  if (left == nullptr || right == nullptr) return std::nullopt;
  const IndexForm a = Broadcast(*left, rank);
  const IndexForm b = Broadcast(*right, rank);
  const auto exceeds = [&](const IndexForm& x, const IndexForm& y, int64_t by) -> OptionalCondition {
    OptionalForm difference = Sum(x, -1, y);
    if (!difference.has_value()) return std::nullopt;
    difference->constant = difference->constant - by;
    return AtLeastZero(*std::move(difference), Shape(node.result()));
  };
  switch (node.op()) {
    case Op::kGe:
      return exceeds(a, b, 0);
    case Op::kGt:
      return exceeds(a, b, 1);
    case Op::kLe:
      return exceeds(b, a, 0);
    case Op::kLt:
      return exceeds(b, a, 1);
    default: {  // kEq and kNe
      const OptionalCondition more = exceeds(a, b, 0);
      const OptionalCondition less = exceeds(b, a, 0);
      if (!more.has_value() || !less.has_value()) return std::nullopt;
      const Condition equal = And(*more, *less);
      if (node.op() == Op::kEq) return equal;
      if (equal.always() || equal.never) return Decided(equal.never);
      return std::nullopt;
    }
  }
}

IndexForms::OptionalCondition IndexForms::PredicateOf(const Node& node) const {
  const size_t rank = Shape(node.result()).size();
  const auto operand = [&](int i) -> OptionalCondition {
    const Condition* condition = Predicate(node.operand(i));
    if (condition == nullptr) return std::nullopt;
    return Broadcast(*condition, rank);
  };
  switch (node.op()) {
    case Op::kConstant:
      return Decided(node.attr<double>("value") != 0);
    case Op::kEq:
    case Op::kNe:
    case Op::kLt:
    case Op::kLe:
    case Op::kGt:
    case Op::kGe:
      return Compared(node);
    case Op::kLogicalAnd: {
      const OptionalCondition a = operand(0);
      const OptionalCondition b = operand(1);
      if ((a.has_value() && a->never) || (b.has_value() && b->never)) return Decided(false);
      if (!a.has_value() || !b.has_value()) return std::nullopt;
      return And(*a, *b);
    }
    case Op::kLogicalOr: {
      const OptionalCondition a = operand(0);
      const OptionalCondition b = operand(1);
      if ((a.has_value() && a->always()) || (b.has_value() && b->always())) return Decided(true);
      if (a.has_value() && a->never) return b;
      if (b.has_value() && b->never) return a;
      return std::nullopt;
    }
    case Op::kLogicalNot: {
      const OptionalCondition x = operand(0);
      if (!x.has_value()) return std::nullopt;
      return Not(*x, Shape(node.result()));
    }
    case Op::kWhere: {
      const Condition* condition = Predicate(node.operand(0));
      if (condition == nullptr || (!condition->always() && !condition->never)) return std::nullopt;
      return operand(condition->never ? 2 : 1);
    }
    case Op::kCast: {
      if (const IndexForm* x = Integer(node.operand(0)); x != nullptr) {  // x != 0
        if (*x == Uniform(x->constant, rank) && x->constant.IsConstant()) return Decided(x->constant != DimExpr(0));
        return std::nullopt;
      }
      return operand(0);
    }
    default: {
      const Condition* x = node.num_operands() == 0 ? nullptr : Predicate(node.operand(0));
      if (x == nullptr) return std::nullopt;
      return Moved(node, *x);
    }
  }
}

IndexForms::OptionalCondition IndexForms::Not(const Condition& x, const Dims& shape) const {
  if (x.always() || x.never) return Decided(x.never);
  if (x.terms.size() != 1) return std::nullopt;
  const OptionalForm negated = Sum(Uniform(-1, shape.size()), -1, x.terms[0]);  // not f >= 0: -f - 1 >= 0
  if (!negated.has_value()) return std::nullopt;
  return AtLeastZero(*negated, shape);
}

IndexForms::OptionalCondition IndexForms::Moved(const Node& node, const Condition& x) const {
  Condition moved = {.never = x.never, .terms = {}};
  for (const IndexForm& term : x.terms) {
    OptionalForm form = Moved(node, term);
    if (!form.has_value()) return std::nullopt;
    moved.terms.push_back(*std::move(form));
  }
  // A decided condition stays so under operations that only move elements: those that move a form.
  if (x.terms.empty() && !Moved(node, Uniform(0, Shape(node.operand(0)).size())).has_value()) return std::nullopt;
  return moved;
}

std::optional<IndexForms::Indicator> IndexForms::OnesOf(const Node& node) const {
  const size_t rank = Shape(node.result()).size();
  const auto is = [&node](int i, double number) { return ConstantValue(node.operand(i)) == number; };
  switch (node.op()) {
    case Op::kCast:
      if (const Condition* condition = Predicate(node.operand(0))) return Indicator{*condition};
      if (const Indicator* x = Ones(node.operand(0))) return *x;
      return std::nullopt;
    case Op::kWhere: {
      const Condition* condition = Predicate(node.operand(0));
      const bool inverse = is(1, 0) && is(2, 1);
      if (condition == nullptr || (!inverse && !(is(1, 1) && is(2, 0)))) return std::nullopt;
      return Indicator{Broadcast(*condition, rank), inverse};
    }
    case Op::kSub: {
      const Indicator* x = Ones(node.operand(1));
      if (x == nullptr || !is(0, 1)) return std::nullopt;
      return Indicator{Broadcast(x->condition, rank), !x->inverse};
    }
    default: {
      const Indicator* x = node.num_operands() == 0 ? nullptr : Ones(node.operand(0));
      OptionalCondition moved = x == nullptr ? std::nullopt : Moved(node, x->condition);
      if (!moved.has_value()) return std::nullopt;
      return Indicator{*std::move(moved), x->inverse};
    }
  }
}

IndexForms::OptionalCondition IndexForms::UnmaskedByProduct(const Node& product) const {
  for (const int at : {0, 1}) {
    const std::optional<double> penalty = ConstantValue(product.operand(1 - at));
    const Indicator* hidden = Ones(product.operand(at));
    if (hidden == nullptr || !penalty.has_value() || *penalty > kPenalty || std::isinf(*penalty)) continue;
    const Condition condition = Broadcast(hidden->condition, Shape(product.result()).size());
    return hidden->inverse ? condition : Not(condition, Shape(product.result()));
  }
  return std::nullopt;
}

IndexForms::OptionalCondition IndexForms::UnmaskedOf(const Node& node) const {
  const size_t rank = Shape(node.result()).size();
  switch (node.op()) {
    case Op::kConstant:
      if (node.attr<double>("value") == 0) return Decided(true);
      if (node.attr<double>("value") <= kPenalty) return Decided(false);
      return std::nullopt;
    case Op::kWhere: {
      const Condition* condition = Predicate(node.operand(0));
      const Condition* a = Unmasked(node.operand(1));
      const Condition* b = Unmasked(node.operand(2));
      if (condition == nullptr || a == nullptr || b == nullptr) return std::nullopt;
      const Condition chosen = Broadcast(*condition, rank);
      if (b->never) return And(chosen, Broadcast(*a, rank));
      const OptionalCondition other = Not(chosen, Shape(node.result()));
      if (!a->never || !other.has_value()) return std::nullopt;
      return And(*other, Broadcast(*b, rank));
    }
    case Op::kAdd: {
      const Condition* a = Unmasked(node.operand(0));
      const Condition* b = Unmasked(node.operand(1));
      if (a == nullptr || b == nullptr) return std::nullopt;
      return And(Broadcast(*a, rank), Broadcast(*b, rank));
    }
    case Op::kMul:
      return UnmaskedByProduct(node);
    case Op::kCast: {
      const Condition* x = Unmasked(node.operand(0));
      return x == nullptr ? std::nullopt : OptionalCondition(*x);
    }
    default: {
      const Condition* x = node.num_operands() == 0 ? nullptr : Unmasked(node.operand(0));
      return x == nullptr ? std::nullopt : Moved(node, *x);
    }
  }
}

}  // namespace flashflow::passes
