// Index arithmetic in closed form: which integer tensors are affine functions of their own index, and which bool
// tensors are conditions on such functions. This is how the mask and position arithmetic of exported models (arange,
// unsqueeze, comparisons, index, cumsum, ...) is understood without knowing any size.
#ifndef COMPILER_PASSES_INDEX_FORM_H_
#define COMPILER_PASSES_INDEX_FORM_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "compiler/ir/graph.h"

namespace flashflow::passes {

// element[i_0, i_1, ...] = constant + sum over axes a of steps[a] * i_a + bases * p(i_row), where p(r) is the first
// position of sequence r: an unknown number of 0 or more. Steps along axes of size 1 are 0.
struct IndexForm {
  DimExpr constant;
  std::vector<int64_t> steps;
  int64_t bases = 0;
  int row = -1;  // the axis that says which sequence; -1 if bases is 0
  friend bool operator==(const IndexForm&, const IndexForm&) = default;
};

// A bool tensor that is true where all these forms are 0 or more. Without any it is true everywhere.
struct Condition {
  bool never = false;  // false everywhere
  std::vector<IndexForm> terms;
  bool always() const { return !never && terms.empty(); }
  friend bool operator==(const Condition&, const Condition&) = default;
};

// Far below every score of a model: the least f32 of masks, half of it where two are added, or -infinity.
inline constexpr double kPenalty = -1e30;

// A form or condition as it looks broadcast to a rank, aligned at the last axis.
IndexForm Broadcast(const IndexForm& x, size_t rank);
Condition Broadcast(const Condition& x, size_t rank);

class IndexForms {
 public:
  // Of all values of the graph; they are to be looked up before it changes. With `consecutive_positions`, the input
  // "position_ids" [batch, sequence] is taken to rise by one along each sequence, as it does wherever one token follows
  // the other; without, it is not looked into.
  IndexForms(const ir::Graph& graph, bool consecutive_positions);

  const IndexForm* Integer(const ir::Value* value) const;    // nullptr: not of this form
  const Condition* Predicate(const ir::Value* value) const;  // nullptr: not of this form
  // Where a float tensor that is added to attention scores is 0; elsewhere it is kPenalty or less, down to -infinity,
  // which leaves e^score at 0. nullptr: not of this form.
  const Condition* Unmasked(const ir::Value* value) const;

  // Where a float tensor of 0 and 1 is 1, or where it is 0 if `inverse`. nullptr: not of this form.
  struct Indicator {
    Condition condition;
    bool inverse = false;
  };
  const Indicator* Ones(const ir::Value* value) const;

  // The opposite of a condition of at most one term, over a tensor of this shape; nullopt if it has more.
  std::optional<Condition> Not(const Condition& x, const Dims& shape) const;

 private:
  using OptionalForm = std::optional<IndexForm>;
  using OptionalCondition = std::optional<Condition>;

  void Add(const ir::Value* value, OptionalForm form);
  void Add(const ir::Value* value, OptionalCondition condition,
           absl::flat_hash_map<const ir::Value*, Condition>* conditions);
  OptionalForm IntegerOf(const ir::Node& node) const;
  OptionalCondition PredicateOf(const ir::Node& node) const;
  OptionalCondition UnmaskedOf(const ir::Node& node) const;
  std::optional<Indicator> OnesOf(const ir::Node& node) const;
  // The mask (1 - ones) * penalty, as older models write it.
  OptionalCondition UnmaskedByProduct(const ir::Node& product) const;
  OptionalCondition Moved(const ir::Node& node, const Condition& x) const;
  // The form under an operation that moves elements, on x as its operand.
  OptionalForm Moved(const ir::Node& node, const IndexForm& x) const;
  OptionalForm Indexed(const ir::Node& node, const IndexForm& x) const;
  OptionalForm Concatenated(const ir::Node& node) const;
  OptionalCondition Compared(const ir::Node& node) const;
  // form >= 0, decided where the sizes' ranges decide it.
  OptionalCondition AtLeastZero(IndexForm form, const Dims& shape) const;
  // Its least and greatest element, whatever the sizes; nullopt if they may overflow.
  std::optional<SymbolRange> Bounds(const IndexForm& form, const Dims& shape) const;

  SymbolRanges ranges_;
  absl::flat_hash_map<const ir::Value*, IndexForm> forms_;
  absl::flat_hash_map<const ir::Value*, Condition> conditions_;
  absl::flat_hash_map<const ir::Value*, Condition> unmasked_;
  absl::flat_hash_map<const ir::Value*, Indicator> ones_;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_INDEX_FORM_H_
